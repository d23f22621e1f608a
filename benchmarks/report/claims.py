"""Sentences that are computed from a result: what it says first, where the system wins, where it loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from . import anonymity
from .parts import Document, judges, listed, percent, ranged
from .rivals import OURS
from .service import alone_ms

# With fewer samples than that a rate's interval spans a third of all there is.
FEW = 30


def _values(rows: Mapping[str, Document], *keys: str) -> list[float]:
    found = []
    for row in rows.values():
        value = row
        for key in keys:
            value = value[key]
        if value["value"] is not None:
            found.append(value["value"])
    return found


def _open_efficacy(result: Document) -> list[str]:
    role, black = judges(result["recognizers"])
    return [
        f"On {result['pictures']} pictures, {ranged(_values(black, 'asr'))} of the protected faces pass for "
        f"the target with the {role} recognisers ({listed(list(black))}; untouched: "
        f"{ranged(_values(black, 'asr_clean'))}), and {ranged(_values(black, 'esr'))} of the restored ones "
        f"do not (untouched: {ranged(_values(black, 'esr_clean'))}). The restored face is accepted as its "
        f"owner's in {ranged(_values(black, 'owner_accepted_restored'))} of cases."
    ]


def _open_owners(result: Document) -> list[str]:
    _, black = judges(result["recognizers"])
    clean, protected, restored = (
        ranged(_values(black, version, "rank_1")) for version in ("clean", "protected", "restored")
    )
    return [
        f"Strangers who search for {result['people']} people by another photo find {protected} of them on "
        f"the protected picture, {clean} on the clean one and {restored} on the restored one."
    ]


def _fastest_photo(result: Document) -> Document:
    """The row of the fastest backend that protects, or anonymises, the smallest picture."""
    pictures = result["pictures"]
    smallest = min(pictures, key=lambda name: pictures[name]["width_px"] * pictures[name]["height_px"])
    rows = [
        row
        for row in result["photos"]
        if row["picture"] == smallest and row["verb"] in ("protect", "anonymise")
    ]
    return min(rows, key=lambda row: float(row["total_ms"]["median"]))


def _open_photo(result: Document) -> list[str]:
    best = _fastest_photo(result)
    about = result["pictures"][best["picture"]]
    faces = f"{about['faces']} {'face' if about['faces'] == 1 else 'faces'}"
    return [
        f"{'Protecting' if best['verb'] == 'protect' else 'Anonymising'} a photo of {about['width_px']} x "
        f"{about['height_px']} pixels with {faces} takes {best['total_ms']['median']:.0f} ms from file to "
        f"file with {best['backend']}, {best['stages_ms']['network']['median']:.0f} ms in the networks."
    ]


def _photo_losses(result: Document) -> list[str]:
    best = _fastest_photo(result)
    medians = {stage: times["median"] for stage, times in best["stages_ms"].items()}
    slowest = max(medians, key=lambda stage: float(medians[stage]))
    if slowest == "network":
        return []
    return [
        f"Most of a photo's time is not the networks': {slowest} takes {medians[slowest]:.0f} of "
        f"{best['total_ms']['median']:.0f} ms ({best['picture']}, {best['backend']})."
    ]


def _open_serving(result: Document) -> list[str]:
    ours = [row for row in result["rows"] if row["server"] == result["rows"][0]["server"]]
    best = max(ours, key=lambda row: row["faces_per_s"])
    does = "anonymises" if "anonymise" in result["bundle"].get("sha256", {}) else "protects"
    return [
        f"Our server {does} up to {best['faces_per_s']:.0f} faces a second ({best['server']}, "
        f"{best['backend']}, {best['concurrency']} requests at a time)."
    ]


def _efficacy_gains(result: Document) -> list[str]:
    fooled = [
        f"{name} takes {percent(row['asr'])} % of the protected faces for the target and "
        f"{percent(row['asr_clean'])} % of the untouched ones"
        for name, row in result["recognizers"].items()
        if row["role"] == "black-box" and row["asr"]["low"] > row["asr_clean"]["high"]
    ]
    lines = []
    if fooled:
        lines.append(f"Recognisers that took no part in training are fooled: {listed(fooled)}.")
    whole = [
        name for name, row in result["recognizers"].items() if row["esr"]["high"] >= row["esr_clean"]["value"]
    ]
    if whole and result["pictures"] >= FEW:  # an interval of a few pictures holds nearly everything
        lines.append(
            f"With {listed(whole)} restored pictures pass for the target no more often than untouched ones "
            "do, within the interval."
        )
    return lines


def _owners_gains(result: Document) -> list[str]:
    hidden = [
        name
        for name, row in result["recognizers"].items()
        if row["protected"]["rank_1"]["high"] < row["clean"]["rank_1"]["low"]
    ]
    return [f"The mask lowers the owner's rank-1 rate beyond doubt with {listed(hidden)}."] if hidden else []


def _efficacy_losses(result: Document) -> list[str]:
    lines = []
    rows = result["recognizers"]
    weakest = min(rows, key=lambda name: rows[name]["asr"]["value"])
    lines.append(f"The attack is weakest on {weakest}: ASR {percent(rows[weakest]['asr'])} %.")
    dodging = {name: row["dodging"]["value"] for name, row in rows.items()}
    seen = [name for name, share in dodging.items() if share is not None and share < 0.5]
    if seen:
        rates = ranged([dodging[name] for name in seen])
        lines.append(
            "Passing for the target is not the same as hiding: compared with the owner's own unprotected "
            f"copy of the very picture, only {rates} of the protected faces are lost to {listed(seen)}."
        )
    short = [name for name, row in rows.items() if row["esr"]["high"] < row["esr_clean"]["value"]]
    if short:
        lines.append(
            f"Erasure stays below untouched pictures, beyond its interval, with {listed(short)}: something "
            "of the mask is left."
        )
    if lost := result["lost"]["protected"]:
        lines.append(f"On {lost} of {result['pictures']} protected files no face was found any more.")
    return lines


def _owners_losses(result: Document) -> list[str]:
    rows = result["recognizers"]
    measure = list(next(iter(rows.values()))["clean"])[1]
    worst = max(rows, key=lambda name: rows[name]["protected"][measure]["value"])
    found = rows[worst]["protected"][measure]
    left = max(
        rows.values(), key=lambda row: row["clean"]["rank_1"]["value"] - row["restored"]["rank_1"]["value"]
    )
    name = next(name for name, row in rows.items() if row is left)
    return [
        f"{worst} still confirms {percent(found)} % of the owners on their protected pictures by other "
        f"photos (false accept rate {measure.removeprefix('verified_')}).",
        f"After erasure {name} finds {percent(left['restored']['rank_1'])} % of the owners, before the mask "
        f"{percent(left['clean']['rank_1'])} %.",
    ]


def _robustness_losses(result: Document) -> list[str]:
    """The operation that costs most, compared with the same pictures left alone."""
    untouched = result["operations"].get("none", {}).get("recognizers", {})
    lines = []
    for key, title in (
        ("asr", "attack succeeds in"),
        ("owner_accepted_restored", "owner is accepted again in"),
    ):
        falls = {
            (untouched[name][key]["value"] - row[key]["value"], operation, name)
            for operation, measured in result["operations"].items()
            for name, row in measured["recognizers"].items()
            if name in untouched
        }
        fall, operation, name = max(falls, default=(0.0, "", ""))
        if fall > 0:
            after = result["operations"][operation]["recognizers"][name][key]
            lines.append(
                f"{operation} costs most: with {name} the {title} {percent(after)} % after it and in "
                f"{percent(untouched[name][key])} % without."
            )
    return lines


def _peers(result: Document, better: bool) -> list[str]:
    ours = result["peers"].get(OURS, {}).get("recognizers")
    if not ours:
        return []
    _, black = judges(ours)
    lines = []
    for peer, row in result["peers"].items():
        if peer in (OURS, "clean") or "recognizers" not in row:
            continue
        theirs = row["recognizers"]
        if better:
            won = [name for name in black if ours[name]["asr"]["low"] > theirs[name]["asr"]["high"]]
        else:
            won = [name for name in black if ours[name]["asr"]["high"] < theirs[name]["asr"]["low"]]
        if won:
            side = "above" if better else "below"
            lines.append(f"Our ASR is {side} that of {peer}, beyond the intervals, with {listed(won)}.")
    return lines


def _hardened_losses(result: Document) -> list[str]:
    return [
        f"The hardened {name} takes {percent(row['asr'])} % of the protected faces for the target."
        for name, row in result["recognizers"].items()
        if name in result["hardening"]
    ]


def _eraser_losses(result: Document) -> list[str]:
    def found(eraser: str) -> list[float]:
        rows = result["erasers"][eraser]["recognizers"].values()
        return [row["by_other_photos"]["erased"]["rank_1"]["value"] for row in rows]

    hackers = [name for name in result["erasers"] if name not in ("authority", "not erased")]
    if not hackers:
        return []
    best = max(hackers, key=lambda name: sum(found(name)))
    return [
        f"Without the authority's restorer, a hacker's eraser ({best}) brings {ranged(found(best))} of the "
        f"owners back to the top of a search; the authority {ranged(found('authority'))}, nobody "
        f"{ranged(found('not erased'))}."
    ]


def _ours_and_others(result: Document) -> list[tuple[str, dict[int, Document], dict[str, list[Document]]]]:
    """By backend: our server's rows by how many come at a time, and the others' rows by name."""
    ours = result["rows"][0]["server"]
    found = []
    for backend in alone_ms(result):
        rows = [row for row in result["rows"] if row["backend"] == backend]
        others: dict[str, list[Document]] = {}
        for row in rows:
            if row["server"] != ours:
                others.setdefault(row["server"], []).append(row)
        found.append((backend, {r["concurrency"]: r for r in rows if r["server"] == ours}, others))
    return found


def _compared_servers(result: Document, better: bool) -> list[str]:
    lines = []
    for backend, ours, others in _ours_and_others(result):
        for name, rows in others.items():
            pairs = [(ours[row["concurrency"]], row) for row in rows]
            won = [
                own["concurrency"]
                for own, other in pairs
                if (
                    own["faces_per_s_range"][0] > other["faces_per_s_range"][1]
                    if better
                    else own["faces_per_s_range"][1] < other["faces_per_s_range"][0]
                )
            ]
            if won:
                side = "more" if better else "fewer"
                lines.append(
                    f"Our server protects {side} faces a second than {name} on {backend} with "
                    f"{listed([str(count) for count in won])} at a time, in every round."
                )
    return lines


def _serving_losses(result: Document) -> list[str]:
    lines = _compared_servers(result, better=False)
    for backend, ours, _ in _ours_and_others(result):
        alone = ours[min(ours)]["client_ms"]["p50"]
        lines.append(
            f"A single request to our server on {backend} takes {alone:.1f} ms where the network alone takes "
            f"{alone_ms(result)[backend]:.1f} ms."
        )
    return lines


def _latency_losses(result: Document) -> list[str]:
    lines = []
    for name, network in result["networks"].items():
        best = min(
            (row for row in network["programs"] if "int8" not in row["program"]),
            key=lambda row: row["ms_per_face"],
        )
        if best["times_floor"] > 1:
            lines.append(
                f"The fastest program of {name} in floating point ({best['program']}, {best['batch']} at "
                f"once) takes {best['times_floor']:.2f} times its multiplications at the bf16 rate."
            )
    return lines


OPENING = {
    "efficacy": _open_efficacy,
    "owners": _open_owners,
    "photo": _open_photo,
    "serving": _open_serving,
    "anonymiser": anonymity.opening,
}
GAINS: dict[str, Callable[[Document], Sequence[str]]] = {
    "efficacy": _efficacy_gains,
    "owners": _owners_gains,
    "peers": lambda result: _peers(result, better=True),
    "serving": lambda result: _compared_servers(result, better=True),
}
LOSSES: dict[str, Callable[[Document], Sequence[str]]] = {
    "efficacy": _efficacy_losses,
    "owners": _owners_losses,
    "robustness": _robustness_losses,
    "peers": lambda result: _peers(result, better=False),
    "hardened": _hardened_losses,
    "eraser": _eraser_losses,
    "photo": _photo_losses,
    "serving": _serving_losses,
    "latency": _latency_losses,
    "anonymiser": anonymity.costs,
    "reconstruction": anonymity.got_back,
}
