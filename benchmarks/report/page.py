"""The report as one HTML page that needs nothing else, and as Markdown with its pictures beside it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..schema import read_result
from .anonymity import anonymiser, reconstruction
from .attack import efficacy, hardened, owners, robustness
from .groundwork import ablations, calibrate, target_choice
from .parts import Measured, Section
from .rivals import eraser, peers
from .service import overhead, serving, soak
from .speed import latency, layers, photo
from .style import styled
from .summary import summarise

TEMPLATES = Path(__file__).parent / "templates"

# In the order of the page. What makes a result of each kind, for those that are not there.
SECTIONS: dict[str, tuple[Callable[[Measured], Section], str]] = {
    "efficacy": (efficacy, "python -m benchmarks.efficacy pictures"),
    "owners": (owners, "python -m benchmarks.efficacy owners"),
    "robustness": (robustness, "python -m benchmarks.efficacy robustness"),
    "peers": (peers, "python -m benchmarks.efficacy peers"),
    "hardened": (hardened, "python -m benchmarks.efficacy hardened"),
    "eraser": (eraser, "python -m benchmarks.efficacy eraser"),
    "ablations": (ablations, "python -m benchmarks.efficacy ablations"),
    "anonymiser": (anonymiser, "python -m benchmarks.efficacy anonymiser"),
    "reconstruction": (reconstruction, "python -m benchmarks.efficacy reconstruction"),
    "photo": (photo, "python -m benchmarks.latency photo"),
    "latency": (latency, "python -m benchmarks.latency networks"),
    "latency layers": (layers, "python -m benchmarks.latency layers"),
    "serving": (serving, "python -m benchmarks.serving throughput"),
    "serving overhead": (overhead, "python -m benchmarks.serving overhead"),
    "soak": (soak, "python -m benchmarks.serving soak"),
    "target_choice": (target_choice, "python -m benchmarks.efficacy target-choice"),
    "calibrate": (calibrate, "python -m benchmarks.efficacy calibrate"),
}


def read_results(folder: Path) -> list[Measured]:
    """Every result of a folder, in the order of the page and then of their names.

    Raises:
        ValueError: there is none, or one does not conform to the schema.
    """
    found = [
        Measured(name=path.name, document=read_result(path))
        for path in sorted(folder.glob("*.json"))
        if not path.name.endswith(".invalid.json")
    ]
    if not found:
        raise ValueError(f"no results in {folder}; measure some first, e.g. with make bench-quick")
    return sorted(found, key=lambda one: list(SECTIONS).index(one.kind))


def context_of(measured: Sequence[Measured], gallery: Section | None) -> dict[str, Any]:
    """What both templates show."""
    with styled():
        sections = [SECTIONS[one.kind][0](one) for one in measured]
    there = {one.kind for one in measured}
    return {
        "summary": summarise(measured),
        "sections": [*([gallery] if gallery else []), *sections],
        "missing": {kind: command for kind, (_, command) in SECTIONS.items() if kind not in there},
        "provenance": [provenance(one) for one in measured],
    }


def provenance(one: Measured) -> dict[str, str]:
    """Where a result comes from, in a line."""
    environment, bundle = one.document["environment"], one.document.get("bundle", {})
    hashes = bundle.get("sha256", bundle)
    commit, _, dirty = environment["commit"].partition("-")
    return {
        "file": one.name,
        "benchmark": one.kind,
        "commit": commit[:12] + (" (changed)" if dirty else ""),
        "machine": f"{environment['processor']}, {environment['cores']} cores",
        "bundle": bundle.get("name", ""),
        "precision": bundle.get("precision", ""),
        "network": hashes.get("protect", hashes.get("anonymise", ""))[:12],
    }


def write_report(context: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes ``index.html``, and ``report.md`` with its pictures in ``figures/``; returns both files."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for section in context["sections"]:
        for figure in section.figures:
            svg = figure.svg.replace("<svg ", '<svg style="background:#ffffff" ', 1)
            (figures / f"{figure.name}.svg").write_text(svg + "\n", encoding="utf-8")
        for row in section.gallery:
            for picture in row:
                (figures / f"{picture.name}.jpg").write_bytes(picture.jpeg)
    html, markdown = folder / "index.html", folder / "report.md"
    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    html.write_text(_template("page.html.j2", escape=True).render(context, style=style), encoding="utf-8")
    markdown.write_text(_template("page.md.j2", escape=False).render(context), encoding="utf-8")
    return html, markdown


def _template(name: str, *, escape: bool) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    environment.filters["cell"] = lambda text: text.replace("|", "\\|").replace("\n", " ")
    environment.filters["as_svg"] = Markup
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    return environment.get_template(name)
