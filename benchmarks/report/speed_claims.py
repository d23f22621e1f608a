"""Sentences about speed, computed from the results; see ``claims``."""

from __future__ import annotations

from .parts import Document, listed
from .service import alone_ms


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


def open_photo(result: Document) -> list[str]:
    best = _fastest_photo(result)
    about = result["pictures"][best["picture"]]
    faces = f"{about['faces']} {'face' if about['faces'] == 1 else 'faces'}"
    return [
        f"{'Protecting' if best['verb'] == 'protect' else 'Anonymising'} a photo of {about['width_px']} x "
        f"{about['height_px']} pixels with {faces} takes {best['total_ms']['median']:.0f} ms from file to "
        f"file with {best['backend']}, {best['stages_ms']['network']['median']:.0f} ms in the networks."
    ]


def photo_losses(result: Document) -> list[str]:
    best = _fastest_photo(result)
    medians = {stage: times["median"] for stage, times in best["stages_ms"].items()}
    slowest = max(medians, key=lambda stage: float(medians[stage]))
    if slowest == "network":
        return []
    return [
        f"Most of a photo's time is not the networks': {slowest} takes {medians[slowest]:.0f} of "
        f"{best['total_ms']['median']:.0f} ms ({best['picture']}, {best['backend']})."
    ]


def open_serving(result: Document) -> list[str]:
    if result["settings"]["compare"] != "peers":
        return []
    ours = [row for row in result["rows"] if row["server"] == result["rows"][0]["server"]]
    best = max(ours, key=lambda row: row["faces_per_s"])
    does = "anonymises" if "anonymise" in result["bundle"].get("sha256", {}) else "protects"
    return [
        f"Our server {does} up to {best['faces_per_s']:.0f} faces a second ({best['server']}, "
        f"{best['backend']}, {best['concurrency']} requests at a time)."
    ]


def _ours_and_others(result: Document) -> list[tuple[str, dict[int, Document], dict[str, list[Document]]]]:
    """By backend: our server's rows by how many come at a time, and the others' rows by name.

    Nothing where our own settings were compared with one another.
    """
    if result["settings"]["compare"] != "peers":
        return []
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


def compared_servers(result: Document, better: bool) -> list[str]:
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


def serving_losses(result: Document) -> list[str]:
    lines = compared_servers(result, better=False)
    for backend, ours, _ in _ours_and_others(result):
        if 1 in ours:
            lines.append(
                f"A single request to our server on {backend} takes {ours[1]['client_ms']['p50']:.1f} ms "
                f"where the network alone takes {alone_ms(result)[backend]:.1f} ms."
            )
    return lines


def latency_losses(result: Document) -> list[str]:
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
