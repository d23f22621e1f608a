"""JSON files that say what they are: written with a format and a version, refused without them."""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import BundleError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """One kind of file.

    Attributes:
        name: stands in every such file, so that no other JSON is taken for it.
        version: the only one that is read.
        called: the file, in messages.
        remedy: how to get a good one, in messages.
    """

    name: str
    version: int
    called: str
    remedy: str

    def to_json(self, fields: DataclassInstance) -> str:
        """A dataclass as indented JSON with a stable order."""
        head = {"format": self.name, "version": self.version}
        return json.dumps({**head, **dataclasses.asdict(fields)}, indent=2, sort_keys=True)

    def parse(self, text: str | bytes, make: Callable[[dict[str, Any]], Parsed]) -> Parsed:
        """Reads a file's text, which may be edited by hand or hostile.

        Args:
            text: all of it.
            make: from the fields without format and version to what they mean. Whatever it raises of
                ``AttributeError``, ``KeyError``, ``TypeError`` and ``ValueError`` is a field's fault.

        Raises:
            BundleError: not JSON, another format or version, or a field that is missing, unknown or wrong.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: also no UTF-8, or endless digits
            raise BundleError(f"{self.called} is not valid JSON: {error}; {self.remedy}") from error
        if not isinstance(raw, dict) or raw.pop("format", None) != self.name:
            raise BundleError(
                f"expected {self.called} in the format {self.name}, found other JSON; {self.remedy}"
            )
        if (version := raw.pop("version", None)) != self.version:
            raise BundleError(
                f"{self.called} has version {reprlib.repr(version)}, this program reads {self.version}; "
                f"{self.remedy}, or update erasablemask"
            )
        try:
            return make(raw)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{self.called} has a missing, unknown or malformed field: {error}; {self.remedy}"
            ) from error
