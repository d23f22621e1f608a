"""How fast: whole photos by stage, networks by batch, and how near they are to what the machine can do."""

from __future__ import annotations

from matplotlib import ticker

from ..latency.stages import STAGES
from .parts import Document, Figure, Measured, Section, Table
from .style import BLUE, GREEN, GREY, INK, ORANGE, PALETTE, canvas, finish, grid, legend_above

STAGE_COLOURS = dict(zip(STAGES, PALETTE, strict=True))
SHOWN_PROGRAMS = 14


def photo(measured: Measured) -> Section:
    """From file to file, by stage."""
    result = measured.document
    stem = measured.name.removesuffix(".json")
    missing = [f"Not measured: {backend}. {reason}" for backend, reason in result["missing"].items()]
    tables = [stages_table(result)]
    if result["cold"]:
        tables.append(cold_table(result))
    return Section(
        anchor=f"photo-{stem}",
        title=f"A whole photo, stage by stage ({', '.join(result['networks'])})",
        source=measured.name,
        text=[
            f"Photo in, photo out, {result['settings']['threads']} threads, {result['settings']['rounds']} "
            "timed rounds; all backends and photos in one process and in turns. The detector and everything "
            "around the network is the same in all of them.",
            *missing,
        ],
        figures=[stages_figure(result, stem), batches_figure(result, stem)],
        tables=[*tables, *(batches_table(name, network) for name, network in result["networks"].items())],
    )


def _size(result: Document, name: str) -> str:
    about = result["pictures"][name]
    faces = "1 face" if about["faces"] == 1 else f"{about['faces']} faces"
    return f"{name} ({about['width_px']} x {about['height_px']}, {faces})"


def stages_figure(result: Document, stem: str) -> Figure:
    """Stacked bars: a row of panels a picture, with a scale of its own, a column a verb, a bar a backend."""
    pictures, verbs = list(result["pictures"]), list(dict.fromkeys(row["verb"] for row in result["photos"]))
    backends = list(dict.fromkeys(row["backend"] for row in result["photos"]))
    figure, panels = grid(
        len(pictures), len(verbs), height=0.7 + len(pictures) * (0.5 + 0.21 * len(backends))
    )
    for picture, line in zip(pictures, panels, strict=True):
        for verb, axes in zip(verbs, line, strict=True):
            rows = [r for r in result["photos"] if (r["picture"], r["verb"]) == (picture, verb)]
            for place, row in enumerate(rows):
                left = 0.0
                for stage, colour in STAGE_COLOURS.items():
                    taken = row["stages_ms"][stage]["median"]
                    axes.barh(place, taken, 0.82, left=left, color=colour, label=stage)
                    left += taken
                total = row["total_ms"]["median"]
                axes.text(left, place, f" {total:.0f}", va="center", fontsize=7.5, color=INK)
            axes.set_yticks(range(len(rows)), [row["backend"] for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.set_title(f"{verb}: {picture}", fontsize=8.5)
            axes.grid(visible=False, axis="y")
            axes.grid(visible=True, axis="x")
            axes.margins(x=0.12)
            axes.tick_params(length=0, labelsize=7.5)
    for axes in panels[-1]:
        axes.set_xlabel("ms, medians")
    handles, names = panels[0][0].get_legend_handles_labels()
    first = dict(zip(reversed(names), reversed(handles), strict=True))
    figure.legend(
        [first[stage] for stage in STAGES], list(STAGES), loc="outside upper left", ncols=len(STAGES)
    )
    return finish(
        figure,
        f"stages-{stem}",
        "Medians of each stage of a whole photo; the numbers are the totals. Each picture has its own scale.",
    )


def stages_table(result: Document) -> Table:
    """Medians by stage; the total's spread."""
    return Table(
        caption="Milliseconds a photo: the total's median, quartiles, 95th and 99th percentile, then each "
        f"stage's median, of {result['settings']['rounds']} calls (of fewer than a hundred the 99th "
        "percentile is the longest).",
        columns=["picture", "verb", "backend", "total", "quartiles", "p95", "p99", *STAGES],
        rows=[
            [
                _size(result, row["picture"]),
                row["verb"],
                row["backend"],
                f"{row['total_ms']['median']:.0f}",
                " to ".join(f"{end:.0f}" for end in row["total_ms"]["quartiles"]),
                f"{row['total_ms']['p95']:.0f}",
                f"{row['total_ms']['p99']:.0f}",
                *(f"{row['stages_ms'][stage]['median']:.1f}" for stage in STAGES),
            ]
            for row in result["photos"]
        ],
        words=3,
    )


def cold_table(result: Document) -> Table:
    """First photo of a new process, and its memory."""
    return Table(
        caption="Cold start: milliseconds from the start of a new process to the written photo (files in the "
        "system's cache), and the most memory it had.",
        columns=["picture", "verb", "backend", "ms", "quartiles", "runs", "peak MiB"],
        rows=[
            [
                _size(result, row["picture"]),
                row["verb"],
                row["backend"],
                f"{row['first_photo_ms']['median']:.0f}",
                " to ".join(f"{end:.0f}" for end in row["first_photo_ms"]["quartiles"]),
                str(row["first_photo_ms"]["calls"]),
                "-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}",
            ]
            for row in result["cold"]
        ],
        words=3,
    )


def batches_figure(result: Document, stem: str) -> Figure:
    """Time a face by batch, with the floor."""
    networks = result["networks"]
    figure, panels = canvas(height=3.1, columns=len(networks))
    for axes, (name, network) in zip(panels, networks.items(), strict=True):
        backends = dict.fromkeys(row["program"] for row in network["programs"])
        for backend, colour in zip(backends, (BLUE, GREEN, ORANGE, GREY), strict=False):
            rows = [row for row in network["programs"] if row["program"] == backend]
            axes.plot(
                [row["batch"] for row in rows],
                [row["ms_per_face"] for row in rows],
                marker="o",
                markersize=3.5,
                color=colour,
                label=backend,
            )
        axes.axhline(network["floor_ms"], color=INK, linestyle="--", linewidth=1, label="floor")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%d"))
        axes.set_ylim(bottom=0)
        axes.set_title(f"network of {name}")
        axes.set_xlabel("faces at once")
    panels[0].set_ylabel("ms a face, medians")
    legend_above(figure, panels[0], 5)
    return finish(
        figure,
        f"batches-{stem}",
        "The networks alone by batch. The floor is what the multiplications alone take at the rate of "
        "PyTorch's fastest matrix product in the same run; of float32's, where nothing less may be computed.",
    )


def batches_table(name: str, network: Document) -> Table:
    """Time a face by batch."""
    sizes = sorted({row["batch"] for row in network["programs"]})
    backends = dict.fromkeys(row["program"] for row in network["programs"])
    rows = {(row["program"], row["batch"]): row for row in network["programs"]}
    return Table(
        caption=f"Network of {name}: milliseconds a face by batch, medians; the floor is "
        f"{network['floor_ms']:.2f} ms.",
        columns=["backend", *map(str, sizes), f"x floor, at {sizes[-1]}"],
        rows=[
            [
                backend,
                *(f"{rows[backend, size]['ms_per_face']:.2f}" for size in sizes),
                f"{rows[backend, sizes[-1]]['times_floor']:.2f}",
            ]
            for backend in backends
        ],
    )


def latency(measured: Measured) -> Section:
    """Every library, precision and form of the networks."""
    result = measured.document
    stem = measured.name.removesuffix(".json")
    return Section(
        anchor=f"latency-{stem}",
        title="The networks in every library and precision",
        source=measured.name,
        text=[
            f"{result['settings']['threads']} threads on {result['settings']['device']}, all programs in one "
            "process and in turns. The lines are the fastest products of large matrices that PyTorch reached "
            "in the same run; a program's rate is the network's operations over its time. The floor is the "
            "time that the bf16 line stands for, or the float32 one where nothing less may be computed. A "
            "bar beyond a line says that the library multiplies faster than PyTorch's matrix product of that "
            "precision, or with fewer bits.",
        ],
        figures=[roofline(result, stem)],
        tables=[programs_table(name, network) for name, network in result["networks"].items()],
    )


def fastest(network: Document, batch: int) -> list[Document]:
    """The programs of a batch, the fastest first, and not more than fit on a page."""
    rows = [row for row in network["programs"] if row["batch"] == batch]
    return sorted(rows, key=lambda row: row["ms_per_face"])[:SHOWN_PROGRAMS]


def roofline(result: Document, stem: str) -> Figure:
    """Achieved rates beside those of matrix products, a panel a network, at the largest batch."""
    networks = result["networks"]
    most = max(len(fastest(network, _largest(network))) for network in networks.values())
    figure, panels = canvas(width=9.2, height=1.2 + 0.21 * most, columns=len(networks))
    for axes, (name, network) in zip(panels, networks.items(), strict=True):
        batch = _largest(network)
        rows = fastest(network, batch)
        rates = [network["flops_per_face"] / row["ms_per_face"] / 1e6 for row in rows]
        colours = [
            GREEN if "int8" in r["program"] else ORANGE if "16" in r["program"] else BLUE for r in rows
        ]
        axes.barh(range(len(rows)), rates, 0.8, color=colours)
        for place, rate in enumerate(rates):
            axes.text(rate, place, f" {rate:.0f}", va="center", fontsize=7.5, color=INK)
        for (kind, roof), line in zip(result["matrix_rate_flops"].items(), (":", "--"), strict=True):
            axes.axvline(roof / 1e9, color=INK, linestyle=line, linewidth=1.1)
            axes.text(roof / 1e9, -0.7, f"{kind} product", fontsize=7.5, ha="center", va="bottom", color=INK)
        axes.set_yticks(range(len(rows)), [row["program"] for row in rows])
        axes.tick_params(axis="y", labelsize=7.5, length=0)
        axes.invert_yaxis()
        axes.set_title(f"{name}, {batch} at once", pad=16)
        axes.set_xlabel("GFLOP/s")
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.margins(x=0.1)
    return finish(
        figure,
        f"roofline-{stem}",
        "Roofline: rates of the fastest programs beside the measured matrix products (blue float32, orange "
        "16 bits, green int8).",
    )


def _largest(network: Document) -> int:
    return max(row["batch"] for row in network["programs"])


def programs_table(name: str, network: Document) -> Table:
    """The fastest programs of the smallest and of the largest batch."""
    batches = sorted({row["batch"] for row in network["programs"]})
    shown = [row for batch in dict.fromkeys((batches[0], batches[-1])) for row in fastest(network, batch)]
    return Table(
        caption=f"{name}: floor {network['floor_ms']:.2f} ms a face; the {SHOWN_PROGRAMS} fastest of "
        "each batch. Speed-up is over ONNX Runtime in float32 as trained; levels say how far the output is "
        "from that one's.",
        columns=["program", "batch", "ms a face", "quartiles", "p95", "speed-up", "x floor", "max levels"],
        rows=[
            [
                row["program"],
                str(row["batch"]),
                f"{row['ms_per_face']:.2f}",
                " to ".join(f"{end:.2f}" for end in row["quartiles_ms"]),
                f"{row['p95_ms']:.2f}",
                f"{row['speedup']:.2f}",
                f"{row['times_floor']:.2f}",
                f"{row['max_levels']:.0f}",
            ]
            for row in shown
        ],
    )


def layers(measured: Measured) -> Section:
    """Where the time of the int8 networks goes."""
    result = measured.document
    rate = result["matrix_rate_flops"]["bf16"]
    programs = [
        (network, form, program)
        for network, row in result["networks"].items()
        for form, program in row["programs"].items()
    ]
    kinds = list(dict.fromkeys(kind for _, _, program in programs for kind in program["ms_per_face"]))
    return Section(
        anchor="layers",
        title="Where a network's time goes",
        source=measured.name,
        text=[
            f"Int8 networks in OpenVINO, which computes the rest in bfloat16; batches of "
            f"{result['settings']['batch']}, {result['settings']['threads']} threads. Large bfloat16 "
            f"matrices reach {rate / 1e12:.2f} TFLOP/s in the same run."
        ],
        tables=[
            Table(
                caption="Milliseconds a face by kind of layer, and the convolutions' TFLOP/s.",
                columns=["network", "form", *kinds, "TFLOP/s"],
                rows=[
                    [
                        network,
                        form,
                        *(f"{program['ms_per_face'].get(kind, 0.0):.2f}" for kind in kinds),
                        f"{program['convolution_flops'] / 1e12:.2f}",
                    ]
                    for network, form, program in programs
                ],
                words=2,
            )
        ],
    )
