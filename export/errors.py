"""What can go wrong in an export; each message says what was expected, what was found, what to do."""

from __future__ import annotations

from runtime.errors import ErasableMaskError


class ExportError(ErasableMaskError):
    """A network or its graph cannot be exported as asked."""


class PrecisionError(ExportError):
    """The precision that was asked for cannot be had, or was not delivered."""


class ParityError(ExportError):
    """An exported network differs more from the trained one than its precision allows."""
