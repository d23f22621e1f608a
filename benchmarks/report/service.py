"""What running servers achieve, and how they are after a while."""

from __future__ import annotations

from .parts import Document, Figure, Measured, Section, Table
from .style import BLUE, GREY, INK, ORANGE, PALETTE, canvas, finish, legend_above

# By what was compared (``benchmarks.serving throughput --compare``).
TITLES = {
    "peers": "Servers under load",
    "knobs": "Servers: the knobs of fused batching",
    "split": "Servers: one instance on all cores, or one for each",
}


def serving(measured: Measured) -> Section:
    """Throughput and latency by how many requests come at a time."""
    result = measured.document
    alone = alone_ms(result)
    local = ", ".join(f"{backend} {ms:.1f} ms" for backend, ms in alone.items())
    return Section(
        anchor=f"serving-{measured.name.removesuffix('.json')}",
        title=TITLES[result["settings"]["compare"]],
        source=measured.name,
        text=[
            f"Requests of {result['settings']['faces_per_request']} face to servers of the same network, "
            f"backend and {result['settings']['threads']} threads, clients on the same machine, medians of "
            f"{result['settings']['rounds']} rounds in turns. Without any server one face takes: {local}."
        ],
        figures=[load_figure(result, f"serving-{measured.name.removesuffix('.json')}")],
        tables=[
            Table(
                caption=f"{backend}: faces a second with their range over the rounds, mean batch, and the "
                "clients' latency in milliseconds, medians over the rounds.",
                columns=["server", "at a time", "faces/s", "range", "batch", "p50", "p90", "p95", "p99"],
                rows=[
                    [
                        row["server"],
                        str(row["concurrency"]),
                        f"{row['faces_per_s']:.1f}",
                        " to ".join(f"{end:.1f}" for end in row["faces_per_s_range"]),
                        f"{row['mean_batch']:.2f}",
                        *(f"{row['client_ms'][name]:.1f}" for name in ("p50", "p90", "p95", "p99")),
                    ]
                    for row in result["rows"]
                    if row["backend"] == backend
                ],
            )
            for backend in alone
        ],
    )


def alone_ms(result: Document) -> dict[str, float]:
    """The time of the network for one face without any server, by backend."""
    return {backend: ways["together"]["1"] for backend, ways in result["network_ms_per_face"].items()}


def overhead(measured: Measured) -> Section:
    """Where the time of one face goes that its network does not take."""
    result = measured.document
    phases = list(dict.fromkeys(phase for row in result["rows"] for phase in row.get("phases_ms", {})))
    return Section(
        anchor="overhead",
        title="One face on its way through a server",
        source=measured.name,
        text=[
            f"One request after the other, each path in turns, {result['settings']['threads']} threads: the "
            "difference of two paths is what the longer one has on its way."
        ],
        tables=[
            Table(
                caption="Milliseconds of a request: median and 95th percentile; what its network does not "
                "take, on average; the median of each phase inside the server.",
                columns=["backend", "path", "requests", "p50", "p95", "beside the network", *phases],
                rows=[
                    [
                        row["backend"],
                        row["path"],
                        str(row["requests"]),
                        f"{row['p50_ms']:.2f}",
                        f"{row['p95_ms']:.2f}",
                        f"{row['overhead_ms']:.2f}" if "overhead_ms" in row else "-",
                        *(
                            f"{row['phases_ms'][phase]:.2f}" if phase in row.get("phases_ms", {}) else "-"
                            for phase in phases
                        ),
                    ]
                    for row in result["rows"]
                ],
                words=2,
            )
        ],
    )


def load_figure(result: Document, name: str) -> Figure:
    """Latency against throughput, a panel a backend, a line a server."""
    backends = list(alone_ms(result))
    servers = list(dict.fromkeys(row["server"] for row in result["rows"]))
    figure, panels = canvas(height=3.3, columns=len(backends), sharey=True)
    for axes, backend in zip(panels, backends, strict=True):
        for place, server in enumerate(servers):
            rows = [r for r in result["rows"] if (r["server"], r["backend"]) == (server, backend)]
            rates, waits = [r["faces_per_s"] for r in rows], [r["client_ms"]["p50"] for r in rows]
            colour = (ORANGE, BLUE, GREY, *PALETTE[2:5], PALETTE[6])[place % 7]
            axes.plot(rates, waits, marker="o", markersize=3.5, color=colour, label=server)
            if place == 0:
                for row, rate, wait in zip(rows, rates, waits, strict=True):
                    axes.annotate(
                        str(row["concurrency"]),
                        (rate, wait),
                        (5, -3),
                        textcoords="offset points",
                        fontsize=7.5,
                        color=INK,
                    )
        axes.set_yscale("log")
        axes.set_title(backend)
        axes.set_xlabel("faces a second")
        axes.margins(x=0.1)
        axes.grid(visible=True, axis="both")
    panels[0].set_ylabel("median latency, ms")
    legend_above(figure, panels[0], 3)
    return finish(
        figure,
        name,
        "Latency against throughput; the numbers beside the first server's points say how many requests came "
        "at a time. Right and low is better.",
    )


def soak(measured: Measured) -> Section:
    """A server under load for a while."""
    result = measured.document
    settings, samples = result["settings"], result["memory_mib"]
    figure, (memory, latency) = canvas(height=2.9, columns=2)
    for place, name in enumerate(result["growth_mib_per_hour"]):
        seen = [sample for sample in samples if name in sample]
        memory.plot(
            [sample["s"] / 60 for sample in seen],
            [sample[name] for sample in seen],
            color=PALETTE[place % len(PALETTE)],
            label=name,
        )
    memory.set_title("memory of its processes, MiB")
    memory.set_ylim(bottom=0)
    memory.legend()
    minutes = [row["minute"] for row in result["latency_ms"]]
    for quantile, colour in (("p50", BLUE), ("p99", ORANGE)):
        times = [row[quantile] for row in result["latency_ms"]]
        latency.plot(minutes, times, marker="o", markersize=3, color=colour, label=quantile)
    latency.set_title("latency, ms")
    latency.set_ylim(bottom=0)
    latency.legend()
    for axes in (memory, latency):
        axes.set_xlabel("minute")
    return Section(
        anchor="soak",
        title="A server after a while",
        source=measured.name,
        text=[
            f"{settings['minutes']:.0f} minutes, {settings['concurrency']} clients without pause, requests "
            f"of one to six faces on {settings['backend']}: {result['requests']} requests answered, "
            f"{len(result['errors'])} errors. {growth_told(result)}"
        ],
        figures=[finish(figure, "soak", "Memory and latency of a server under constant load.")],
        tables=[
            Table(
                caption="Growth of memory: the last third of the time over the middle one, the slope after "
                "the warm-up, and what is held at the end.",
                columns=["process", "growth, MiB", "slope, MiB an hour", "at the end, MiB"],
                rows=[
                    [
                        name,
                        signed(result["growth_mib"][name]),
                        signed(slope),
                        f"{samples[-1][name]:.0f}" if name in samples[-1] else "-",
                    ]
                    for name, slope in result["growth_mib_per_hour"].items()
                ],
            )
        ],
    )


def growth_told(result: Document) -> str:
    """Whether the soak's check of memory passed."""
    limit = result["settings"]["growth_limit_mib"]
    grown = [name for name, mib in result["growth_mib"].items() if mib > limit]
    if not grown:
        return f"No process grew by more than the {limit:g} MiB that are allowed."
    return f"More than the {limit:g} MiB that are allowed grew: {', '.join(grown)}; so the check failed."


def signed(value: float) -> str:
    """With its sign and one decimal, and no negative zero."""
    return f"{round(value, 1) + 0.0:+.1f}"
