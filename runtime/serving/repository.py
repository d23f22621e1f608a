"""What Triton is given of a bundle: which models a role serves, their configurations and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..engine_sidecar import EngineSidecar, sidecar_path
from ..errors import BundleError, ServingError
from ..manifest import Bundle, Manifest, ModelFile, Role, System, open_bundle, sha256_of
from .triton_config import ONNX, PLATFORMS, TENSORRT, Platform, config_text

# By role and system; nobody has authority over what an anonymiser does.
MODELS: dict[Role, dict[System, tuple[str, ...]]] = {
    "public": {"mask": ("protect", "attributes"), "anonymiser": ("anonymise",)},
    "authority": {"mask": ("restore",)},
}
# Where Triton may choose a GPU, its library may compute in less than float32.
_ONNX_IN_FLOAT32 = replace(ONNX, kind="KIND_CPU")
VERSION = "1"
# Beside the public repository: what its plans are.
ENGINES = "engines"
_WRITE_AGAIN = "write the repository again: python -m export.repository"


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as Triton gets it.

    Attributes:
        entry: its inputs and outputs, from the manifest.
        configs: texts by path in the model's folder.
        files: bytes by name in a version's folder.
    """

    entry: ModelFile
    configs: Mapping[str, str]
    files: Mapping[str, bytes] = field(repr=False)


def names_in(role: Role) -> tuple[str, ...]:
    """Every model that some system has in a role."""
    return tuple(name for names in MODELS[role].values() for name in names)


def names_of(manifest: Manifest) -> tuple[str, ...]:
    """The models of a bundle that a server serves.

    Raises:
        BundleError: its system has none in its role.
    """
    names = MODELS[manifest.role].get(manifest.system)
    if names is None:
        raise BundleError(f"no server serves the {manifest.role} bundle of the {manifest.system}")
    return names


def open_role(folder: Path, role: Role) -> Bundle:
    """Opens a bundle that must be of a role.

    Raises:
        BundleError: it is no bundle, or of the other role.
    """
    bundle = open_bundle(folder)
    if bundle.manifest.role != role:
        raise BundleError(f"expected the {role} bundle in {folder}, found the {bundle.manifest.role} one")
    return bundle


def read_model(bundle: Bundle, name: str) -> bytes:
    """A network's ONNX bytes, hash checked.

    Raises:
        BundleError: it is missing, was changed, or is sealed.
    """
    data = bundle.read(name)
    if bundle.manifest.models[name].sealed:
        raise BundleError(f"{name!r} in {bundle.folder} is sealed, a server could not load it")
    return data


def configurations(bundle: Bundle, name: str, *, note: str = "", instances: int = 1) -> dict[str, str]:
    """A network's configurations by path in its folder, one for every platform that can run it.

    Raises:
        BundleError: Triton cannot be told of the network.
        MissingExtraError: tritonclient is not installed.
    """
    manifest = bundle.manifest
    return {
        platform.config: config_text(
            name, manifest.models[name], manifest.max_batch, platform, note=note, instances=instances
        )
        for platform in _platforms(manifest)
    }


def _platforms(manifest: Manifest) -> tuple[Platform, ...]:
    """There are no plans of a CPU's int8, nor of what must be computed in float32."""
    if manifest.float32_only:
        return (_ONNX_IN_FLOAT32,)
    return (ONNX,) if manifest.precision == "int8" else PLATFORMS


def platform_named(config_name: str | None) -> Platform:
    """The platform that a ``--model-config-name`` picks; None picks ``config.pbtxt``.

    Triton itself takes ``config.pbtxt`` when it finds no file of that name, without a word.

    Raises:
        ServingError: no platform has such a configuration.
    """
    named = {Path(platform.config).stem: platform for platform in PLATFORMS if platform is not ONNX}
    if config_name is None:
        return ONNX
    if config_name not in named:
        raise ServingError(
            f"expected --config-name to be one of {', '.join(named)}, or to be left out for ONNX; "
            f"found {config_name!r}"
        )
    return named[config_name]


def models_of(
    bundle: Bundle, *, repository: Path | None = None, platform: Platform = ONNX, instances: int = 1
) -> dict[str, ServedModel]:
    """The public models, from a bundle alone or with a repository that ``export.repository`` wrote.

    Args:
        bundle: a public one. Its hashes hold for the repository's ONNX files, too, and for the networks that
            plans were built from.
        repository: where configurations and files come from, say TensorRT plans; None: from the bundle.
        platform: what is to run the models.
        instances: of each model, written into generated configurations.

    Raises:
        BundleError: a network is missing, was changed, or Triton cannot be told of it; a plan's description
            cannot be understood.
        ServingError: the repository lacks the platform's configuration or file, or is of another bundle, or
            a plan is not the described one.
        MissingExtraError: tritonclient is not installed.
    """
    models = {}
    for name in names_of(bundle.manifest):
        data = read_model(bundle, name)
        entry = bundle.manifest.models[name]
        if repository is None:
            files = {ONNX.file: data}
            configs: dict[str, str] = configurations(bundle, name, instances=instances)
        else:
            files, configs = _from_repository(repository / name, entry)
        if platform.config not in configs or platform.file not in files:
            raise ServingError(
                f"{platform.name} needs {platform.config} and {platform.file} of {name!r}, found "
                f"{', '.join(sorted([*configs, *files]))} in {repository or bundle.folder}; write them with "
                "python -m export.repository --tensorrt, and name their folder with --repository"
            )
        if repository is not None and platform is TENSORRT:
            _check_plan(files[platform.file], repository.resolve(), name, entry)
        models[name] = ServedModel(entry=entry, configs=configs, files=files)
    return models


def _from_repository(folder: Path, entry: ModelFile) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files of the latest version, and configurations."""
    try:
        configs = {
            platform.config: (folder / platform.config).read_text(encoding="utf-8")
            for platform in PLATFORMS
            if (folder / platform.config).is_file()
        }
        versions = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
        latest = max(versions, key=lambda path: int(path.name), default=folder / VERSION)
        files = {
            platform.file: (latest / platform.file).read_bytes()
            for platform in PLATFORMS
            if (latest / platform.file).is_file()
        }
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(f"cannot read the model repository {folder.parent}: {error}") from error
    if (data := files.get(ONNX.file)) is not None and (found := sha256_of(data)) != entry.sha256:
        raise ServingError(
            f"{latest / ONNX.file} is not the bundle's {entry.path}: expected SHA-256 {entry.sha256}, found "
            f"{found}; {_WRITE_AGAIN}"
        )
    return files, configs


def _check_plan(plan: bytes, repository: Path, name: str, entry: ModelFile) -> None:
    """Raises ``ServingError`` if a plan is not the described one."""
    path = sidecar_path(repository.parent / ENGINES / f"{name}.plan")
    try:
        sidecar = EngineSidecar.from_json(path.read_bytes())
    except OSError as error:
        raise ServingError(
            f"cannot read {path}, which says what the plan of {name!r} is: {error.strerror or error}; keep "
            f"{ENGINES}/ beside the repository, or {_WRITE_AGAIN} --tensorrt"
        ) from error
    for what, expected, found in (
        (f"the plan of {name!r} in {repository}", sidecar.plan_sha256, sha256_of(plan)),
        (f"the network that {path} says the plan is of", entry.sha256, sidecar.onnx_sha256),
    ):
        if found != expected:
            raise ServingError(
                f"{what} is another: expected SHA-256 {expected}, found {found}; {_WRITE_AGAIN} --tensorrt"
            )
