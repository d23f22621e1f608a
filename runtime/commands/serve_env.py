"""``erasablemask serve-env``: the virtual environment with the wheel's Triton server."""

from __future__ import annotations

from pathlib import Path

import click

from ..serving.settings import DEFAULT_ENVIRONMENT


@click.command(
    epilog="""\b
    Example:
      erasablemask serve-env"""
)
@click.argument(
    "folder", required=False, type=click.Path(path_type=Path), default=DEFAULT_ENVIRONMENT, metavar="[FOLDER]"
)
def command(folder: Path) -> None:
    """Make the environment that serve runs the wheel's Triton from.

    FOLDER is .venv-serve unless named. It gets the Python package nvidia-pytriton with Triton inside, NumPy,
    and ONNX Runtime and OpenVINO in the versions installed here; that downloads some 100 MB. What is there
    and fits is kept.
    """
    from ..serving.environment import make_environment

    click.echo(f"{folder}: {'made' if make_environment(folder) else 'is as it should be'}")
