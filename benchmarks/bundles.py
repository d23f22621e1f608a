"""Both halves of a bundle, opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.authority import load_secret, unseal_model
from runtime.manifest import Bundle, open_bundle
from runtime.shipped import default_bundle

from .common import about_bundle


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """Both halves of a bundle, and what opens the second.

    Attributes:
        restorer: the restorer's bytes, unsealed.
        key: the authority's key file.
    """

    public: Bundle
    authority: Bundle
    restorer: bytes
    key: Path

    @classmethod
    def open(cls, folder: Path | None, key: Path | None) -> Bundles:
        """Opens ``public/`` and ``authority/`` of a folder, None for the shipped ones and their demo key."""
        folder = folder or default_bundle("public").parent
        key = key or folder / "authority" / "demo.key"
        public, authority = open_bundle(folder / "public"), open_bundle(folder / "authority")
        restorer = unseal_model(authority, load_secret(key_file=key))
        return cls(public=public, authority=authority, restorer=restorer, key=key)

    def about(self, *networks: str) -> dict[str, Any]:
        """What a result says of them: of the restorer, and of these public networks."""
        about = about_bundle(self.public, *networks)
        about["sha256"]["restore"] = self.authority.manifest.models["restore"].sha256
        return about
