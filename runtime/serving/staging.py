"""The model repository that a server loads from: a private folder, with a new version for every update."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import ServingError
from ..manifest import sha256_of
from .repository import VERSION, ServedModel


def write_file(path: Path, data: bytes) -> None:
    """Puts a model's bytes on the disk."""
    path.write_bytes(data)


class StagedRepository:
    """Writes models into a folder of its own and counts their versions.

    Of what it wrote it keeps the hashes only: a model's bytes may be a secret.

    Args:
        folder: new, readable by this user only.
        models: what is served first, as version 1.
        write: puts a model's bytes at a path. What must not touch a disk brings its own.

    Raises:
        ServingError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        models: Mapping[str, ServedModel],
        *,
        write: Callable[[Path, bytes], None] = write_file,
    ) -> None:
        self.folder = folder
        self.models = {name: replace(model, files={}) for name, model in models.items()}
        self._hashes = {name: _hashes(model) for name, model in models.items()}
        self._write = write
        self._versions = dict.fromkeys(models, int(VERSION))
        self._staged: dict[str, dict[str, str]] = {}
        try:
            folder.mkdir(mode=0o700)
            for name, model in models.items():
                for path, text in model.configs.items():
                    target = folder / name / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(text, encoding="utf-8")
                self._write_version(name, model, int(VERSION))
        except OSError as error:
            raise ServingError(f"cannot write {error.filename or folder}: {error.strerror}") from error

    @property
    def versions(self) -> Mapping[str, int]:
        """Those that are served, by model: what is staged is none before ``settle``."""
        return self._versions

    def stage(self, models: Mapping[str, ServedModel]) -> dict[str, int]:
        """Writes the next version of every model whose files changed; ``settle`` or ``withdraw`` ends it.

        Returns:
            The new versions by model; empty if nothing changed.

        Raises:
            ServingError: the models' names or configurations changed, which clients and doors have been told
                of, or a file cannot be written; then nothing is staged.
        """
        if models.keys() != self.models.keys():
            raise ServingError(
                f"expected the models {', '.join(self.models)}, found {', '.join(models)}; restart the server"
            )
        for name, model in models.items():
            if model.configs != self.models[name].configs:
                raise ServingError(
                    f"the new {name!r} has other tensors, batch sizes or instances than the one served; "
                    "an update changes weights only: restart the server for more"
                )
        changed = {name: model for name, model in models.items() if _hashes(model) != self._hashes[name]}
        try:
            for name, model in changed.items():
                self._staged[name] = _hashes(model)
                self._write_version(name, model, self._versions[name] + 1)
        except OSError as error:
            self.withdraw()
            raise ServingError(f"cannot write {error.filename or name}: {error.strerror}") from error
        return {name: self._versions[name] + 1 for name in changed}

    def withdraw(self) -> None:
        """Removes what was staged."""
        for name in self._staged:
            shutil.rmtree(self._folder(name, self._versions[name] + 1), ignore_errors=True)
        self._staged = {}

    def settle(self) -> None:
        """Makes what was staged the current version, and removes the one before."""
        for name, hashes in self._staged.items():
            shutil.rmtree(self._folder(name, self._versions[name]), ignore_errors=True)
            self._versions[name] += 1
            self._hashes[name] = hashes
        self._staged = {}

    def _folder(self, name: str, version: int) -> Path:
        return self.folder / name / str(version)

    def _write_version(self, name: str, model: ServedModel, version: int) -> None:
        """Under another name first: Triton must not find half a version."""
        partial = self.folder / name / f"{version}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for file, data in model.files.items():
            self._write(partial / file, data)
        partial.rename(self._folder(name, version))


def _hashes(model: ServedModel) -> dict[str, str]:
    return {file: sha256_of(data) for file, data in model.files.items()}
