"""Sentences that are computed from a result: what it says first, where the system wins, where it loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..numbers import percent
from . import anonymity, speed_claims
from .parts import Document, judges, listed, ranged
from .rivals import OURS

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
            lines.append(
                f"Our ASR is {side} that of {peer}, beyond the intervals, with {listed(won)}; it changes the "
                f"face by {row['network']['mean_change_levels']:.1f} of 255 levels on average, ours by "
                f"{result['peers'][OURS]['network']['mean_change_levels']:.1f}."
            )
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


OPENING = {
    "efficacy": _open_efficacy,
    "owners": _open_owners,
    "photo": speed_claims.open_photo,
    "serving": speed_claims.open_serving,
    "anonymiser": anonymity.opening,
}
GAINS: dict[str, Callable[[Document], Sequence[str]]] = {
    "efficacy": _efficacy_gains,
    "owners": _owners_gains,
    "peers": lambda result: _peers(result, better=True),
    "serving": lambda result: speed_claims.compared_servers(result, better=True),
}
LOSSES: dict[str, Callable[[Document], Sequence[str]]] = {
    "efficacy": _efficacy_losses,
    "owners": _owners_losses,
    "robustness": _robustness_losses,
    "peers": lambda result: _peers(result, better=False),
    "hardened": _hardened_losses,
    "eraser": _eraser_losses,
    "photo": speed_claims.photo_losses,
    "serving": speed_claims.serving_losses,
    "latency": speed_claims.latency_losses,
    "anonymiser": anonymity.costs,
    "reconstruction": anonymity.got_back,
}
