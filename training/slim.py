"""``python -m training.slim``: a run's averaged networks alone, to carry or to export."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(epilog="\b\nExample:\n  python -m training.slim runs/gpu carry/gpu")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path))
def main(run: Path, out: Path) -> None:
    """Writes OUT/checkpoint.pt with what export needs of RUN's checkpoint; it cannot be resumed."""
    from .checkpoint import CHECKPOINT_NAME, CheckpointError, slim_checkpoint

    try:
        slim_checkpoint(run, out)
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out / CHECKPOINT_NAME}: {(out / CHECKPOINT_NAME).stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
