"""``erasablemask audit``: the log of an authority's server, checked, shown and rotated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import AuditError

LOG = click.argument("log", type=click.Path(path_type=Path), metavar="LOG")


@click.group(
    epilog="""\b
    Example:
      erasablemask audit verify audit.log"""
)
def command() -> None:
    """Check, show or rotate the log of an authority's server.

    A log that is in use may be read at any time.
    """


@command.command(
    epilog="""\b
    Example:
      erasablemask audit verify audit-2026.log audit-2027.log"""
)
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="LOG...")
@click.option(
    "--expect-head",
    "heads",
    multiple=True,
    metavar="HASH",
    help="A head noted earlier: it must still be in the chain. May be given several times.",
)
def verify(logs: tuple[Path, ...], heads: tuple[str, ...]) -> None:
    """Check the chain of a log, or of several that continue one another, oldest first.

    Says which logs in front of these or behind them were not given. Exits with 1 if a record was changed,
    deleted, inserted or moved, or if the end is torn. Whether whole records are missing at the end, or the
    log was written anew, shows only with --expect-head.
    """
    from ..serving.audit_file import continued_in, read_chain

    missing = {head.lower() for head in heads}
    previous = chain = None
    for log in logs:
        chain = read_chain(log, after=previous, seen=lambda record: missing.discard(record["hash"]))
        if chain.torn:
            raise AuditError(
                f"the log {log} ends in {len(chain.torn)} unfinished bytes after record "
                f"{chain.head.sequence}: it is being written, or a crash or full disk tore it "
                "(the server seals that at its next start), or its end was cut off"
            )
        if previous is None and chain.continues is not None:
            click.echo(f"{log}: continues record {chain.continues} of a log that was not given")
        click.echo(f"{log}: whole up to record {chain.head.sequence}, head {chain.head.hash}")
        for sequence in chain.recovered:
            click.echo(f"{log}: unfinished bytes are sealed off before record {sequence}")
        for sequence in chain.clock_went_back:
            click.echo(f"{log}: record {sequence} is dated before the one in front of it")
        previous = chain.head
    if chain is not None and (name := continued_in(chain)) is not None:
        click.echo(f"{logs[-1]}: goes on in {json.dumps(name)}, which was not given")
    if missing:
        raise AuditError(
            f"expected the head {', '.join(sorted(missing))} in the chain, found no such record: records are "
            "missing at the end, or the log was written anew"
        )


@command.command(
    epilog="""\b
    Example:
      erasablemask audit head audit.log --json"""
)
@LOG
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def head(log: Path, as_json: bool) -> None:
    """Print the last record's hash and number, to be noted where the log's owner cannot change it."""
    from ..serving.audit_file import read_chain

    found = read_chain(log).head
    if as_json:
        click.echo(json.dumps({"hash": found.hash, "sequence": found.sequence}))
    else:
        click.echo(f"{found.hash} {found.sequence}")


@command.command(
    epilog="""\b
    Example:
      erasablemask audit show audit.log"""
)
@LOG
@click.option(
    "--json", "as_json", is_flag=True, help="Print the records as they are, one JSON object a line."
)
def show(log: Path, as_json: bool) -> None:
    """Print the records of a log, up to where its chain breaks if it does."""
    from ..serving.audit_chain import canonical
    from ..serving.audit_file import read_chain

    read_chain(log, seen=lambda record: click.echo(canonical(record) if as_json else _line(record)))


@command.command(
    epilog="""\b
    Example:
      erasablemask audit rotate audit.log audit-2027.log"""
)
@LOG
@click.argument("new", type=click.Path(path_type=Path), metavar="NEW")
def rotate(log: Path, new: Path) -> None:
    """Close LOG for good and begin NEW, which continues its chain.

    The server that writes LOG must be stopped first; start it again with NEW. Prints the head of NEW. If
    interrupted, run it again.
    """
    from ..serving.audit import AuditLog
    from ..serving.audit_file import begin_after, continued_in, read_chain

    if new.exists():
        raise AuditError(f"{new} exists, and logs are never overwritten; choose another name")
    if continued_in(read_chain(log)) is None:
        with AuditLog(log) as opened:
            opened.rotate(new.name)
    found = begin_after(new, log)
    click.echo(f"{found.hash} {found.sequence}")


def _line(record: dict[str, Any]) -> str:
    """One record for people. Names are quoted in ASCII: they may hold what steers a terminal."""
    words = [f"{record['sequence']:>6}", record["time"], record["event"]]
    if record["event"] == "request":
        words += [record["outcome"], f"{record['faces']} faces", json.dumps(record["client"])]
        words += [json.dumps(record["reason"])] if record["reason"] else []
    elif record["event"] == "recovery":
        words.append(f"{record['torn_bytes']} unfinished bytes in front of this")
    elif record["event"] == "rotation":
        words.append(f"continued in {json.dumps(record['continued_in'])}")
    return " ".join(words)
