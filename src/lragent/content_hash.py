"""SHA-256 over typed, length-framed fields: the identity of adapters, groups and pages.

A field is one type byte, its length in eight bytes (little-endian) and its bytes, so no two
different lists of fields have one encoding.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Self


class ContentHash:
    """A hash that begins with its purpose and the version of its fields' meaning."""

    def __init__(self, purpose: str, schema: int = 1) -> None:
        self._hash = hashlib.sha256()
        self.text("lragent").text(purpose).integer(schema)

    def copy(self) -> Self:
        """Another hash with the same fields so far."""
        other = object.__new__(type(self))
        other._hash = self._hash.copy()
        return other

    def field(self, kind: bytes, data: bytes | memoryview) -> Self:
        """Add bytes under a type of one byte."""
        self._hash.update(kind + struct.pack("<Q", len(data)))
        self._hash.update(data)
        return self

    def text(self, value: str) -> Self:
        """Add a string as UTF-8, unpaired surrogates included (a tenant's salt may hold them)."""
        return self.field(b"s", value.encode("utf-8", "surrogatepass"))

    def integer(self, value: int) -> Self:
        """Add an integer of at most 64 bits."""
        return self.field(b"i", struct.pack("<q", value))

    def number(self, value: float) -> Self:
        """Add a float by its 64 bits."""
        return self.field(b"f", struct.pack("<d", value))

    def digest(self) -> bytes:
        """The 32 bytes of the digest."""
        return self._hash.digest()

    def hexdigest(self) -> str:
        """The digest as 64 hexadecimal digits."""
        return self._hash.hexdigest()
