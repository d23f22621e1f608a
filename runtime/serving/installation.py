"""Finds a Triton server: one on PATH, as in NVIDIA's container, or the wheel's in its own environment."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ServingError
from .environment import CONTAINER, library_path, server_folder, stub_of, what_is_wrong
from .settings import ServerSettings

PROGRAM = "tritonserver"
# Triton looks for a backend of this name to run ``platform: "onnxruntime_onnx"``.
BACKEND = "onnxruntime"
BACKEND_VARIABLE = "ERASABLEMASK_STUB_BACKEND"
THREADS_VARIABLE = "ERASABLEMASK_STUB_THREADS"


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A server that can be started.

    Attributes:
        program: its executable.
        backends: folder of its backends, None: the server's own.
        flags: what this server needs to be told.
        variables: for its environment, beside those of this process.
    """

    program: Path
    backends: Path | None = None
    flags: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def find_server(settings: ServerSettings, workplace: Path) -> Installation:
    """A server on PATH, else the wheel's.

    Args:
        settings: where the wheel's environment is, and what is to run the networks.
        workplace: private folder; gets ``backends`` for the wheel's server.

    Raises:
        ServingError: there is none, and what to run to have one; or it cannot do what is asked.
    """
    if (found := shutil.which(PROGRAM)) is not None:
        _check_own_backends(settings, found)
        return Installation(program=Path(found))
    if settings.config_name is not None:
        raise ServingError(
            f"the wheel's server runs ONNX only, found --config-name {settings.config_name}; "
            + container_advice(settings)
        )
    folder = settings.environment.absolute()
    if (wrong := what_is_wrong(folder)) is not None:
        raise ServingError(
            f"there is no {PROGRAM} on PATH, and {folder} cannot be used: {wrong}.\n"
            f"To make it: erasablemask serve-env {shlex.quote(str(settings.environment))}\n"
            f"Or {container_advice(settings)}"
        )
    return _of_wheel(settings, folder, workplace / "backends")


def _check_own_backends(settings: ServerSettings, program: str) -> None:
    if settings.backend != "ort-cpu" or settings.threads is not None:
        raise ServingError(
            f"{program} brings its own backends, so it takes no --backend and no --threads; leave them out, "
            "or remove it from PATH to use the wheel's server"
        )


def _of_wheel(settings: ServerSettings, folder: Path, backends: Path) -> Installation:
    _write_backend(folder, backends / BACKEND)
    variables = {
        "LD_LIBRARY_PATH": library_path(folder),
        # The stub runs the first python3 on PATH.
        "PATH": os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", os.defpath)]),
        "CUDA_VISIBLE_DEVICES": "",
        BACKEND_VARIABLE: settings.backend,
    }
    if settings.threads is not None:
        variables[THREADS_VARIABLE] = str(settings.threads)
    return Installation(
        program=server_folder(folder) / "bin" / PROGRAM,
        backends=backends,
        flags=("--pinned-memory-pool-byte-size=0", "--allow-gpu-metrics=false"),
        variables=variables,
    )


def _write_backend(environment: Path, folder: Path) -> None:
    """The Python backend's parts and our model: copies, because Triton takes no links for them."""
    python_backend = server_folder(environment) / "backends" / "python"
    parts = (
        python_backend / "libtriton_python.so",
        python_backend / "triton_python_backend_utils.py",
        stub_of(environment),
        Path(__file__).parent / "triton_backend" / "model.py",
    )
    try:
        folder.mkdir(parents=True)
        for part in parts:
            shutil.copy(part, folder / part.name)
    except OSError as error:
        raise ServingError(
            f"the wheel's server is not whole: {error}; delete {environment} and run: erasablemask serve-env"
        ) from error


def container_advice(settings: ServerSettings) -> str:
    """How to use NVIDIA's container: the command that runs the same repository there, or our own inside."""
    if settings.role == "authority":
        return (
            f"to use NVIDIA's server, run this command in its container, {CONTAINER}: the restorer is in "
            "memory only, where another container could not find it"
        )
    repository = settings.repository or Path("triton_models") / settings.role
    flags = [
        PROGRAM,
        "--model-repository=/models",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        f"--exit-timeout-secs={round(settings.drain_s)}",
    ]
    if settings.config_name is not None:
        flags.append(f"--model-config-name={settings.config_name}")
    ports = {settings.grpc_port: 8001, settings.metrics_port: 8002}
    publish = [f"-p {settings.host}:{outer}:{inner}" for outer, inner in ports.items() if outer is not None]
    flags.append("--allow-http=false")
    if settings.metrics_port is None:
        flags.append("--allow-metrics=false")
    gpus = "--gpus=all " if settings.config_name is not None else ""
    write = (
        ""
        if settings.repository is not None
        else "python -m export.repository --bundle "
        f"{shlex.quote(str(settings.bundle.parent))} --out {shlex.quote(str(repository.parent))} "
        "--overwrite && "
    )
    return (
        "to use NVIDIA's container:\n"
        f"  {write}docker run --rm {gpus}{' '.join(publish)} "
        f"-v {shlex.quote(str(repository.absolute()))}:/models:ro {CONTAINER} {' '.join(flags)}"
    )
