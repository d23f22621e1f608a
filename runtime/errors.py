"""What can go wrong, in a few exceptions; each message says what was expected, what was found, what to do."""

from __future__ import annotations


class ErasableMaskError(Exception):
    """Base of every error that a user can cause or mend."""


class ImageError(ErasableMaskError):
    """A picture cannot be read, decoded or written."""


class NoFaceError(ErasableMaskError):
    """No face was found, so nothing could be protected or erased."""


class BundleError(ErasableMaskError):
    """A bundle is missing, incomplete, tampered with, or of an unknown version."""


class SecretError(ErasableMaskError):
    """A key or passphrase is missing or wrong, or a sealed file was changed."""


class BackendError(ErasableMaskError):
    """A backend is not installed, not available, or did not deliver what was asked of it."""


class RecognizerError(ErasableMaskError):
    """No face recogniser could be found, or its file is not the expected one."""


class ServingError(ErasableMaskError):
    """An inference server is set up wrongly, cannot be had or started, or does not answer as it should."""


class MissingExtraError(ErasableMaskError, ImportError):
    """An optional dependency is needed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the Python package {package!r} is needed for this and is not installed; "
            f"run in the checkout: pip install '.[{extra}]'"
        )
