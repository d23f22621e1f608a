"""One schema for every result: a common head, a body for each kind, one way to write and to read them."""

from .document import KINDS, ResultError, check, read_result, schema_of, write_result

__all__ = ["KINDS", "ResultError", "check", "read_result", "schema_of", "write_result"]
