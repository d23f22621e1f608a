"""``python -m benchmarks.report``: one page of everything that was measured."""

from __future__ import annotations

from pathlib import Path

import click

EXAMPLE = """\b
Example:
  python -m benchmarks.report --results benchmarks/results --out report
"""


@click.command(epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--results",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of results.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the report.")
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="That makes the pictures; default: the shipped one."
)
@click.option("--key", type=click.Path(path_type=Path), help="Default: the demo key of the bundle.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Show faces.")
def main(results: Path, out: Path, bundle: Path | None, key: Path | None, pictures: bool) -> None:
    """Writes what the results of a folder say as index.html, which needs no other file, and as report.md.

    Results that are not there are named as missing. The pictures are made now, from packaged photographs.
    Ends with 1, once it is written, where a result is suspicious.
    """
    from ..bundles import Bundles
    from ..common import as_click_errors
    from ..efficacy.suspicion import finish
    from .gallery import gallery
    from .page import context_of, read_results, write_report

    with as_click_errors():
        measured = read_results(results)
        shown = gallery(Bundles.open(bundle, key)) if pictures else None
        html, markdown = write_report(context_of(measured, shown), out)
    click.echo(f"{len(measured)} results in {html} and {markdown}")
    finish({"suspicions": [doubt for one in measured for doubt in one.document.get("suspicions", ())]})


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.report")
