from __future__ import annotations

import hashlib
import struct
from dataclasses import fields, replace

import pytest
from tests.cache.helpers import scope

from lragent.cache import KeyScope, page_key, root_key


def test_every_field_of_the_scope_is_in_the_key() -> None:
    one = scope()
    keys = {root_key(one)}
    for field in fields(KeyScope):
        keys.add(root_key(replace(one, **{field.name: "other"})))
    assert len(keys) == 1 + len(fields(KeyScope))
    assert root_key(scope()) == root_key(one)


def test_fields_do_not_run_into_each_other() -> None:
    assert root_key(scope(tenant="ab", sharer="c")) != root_key(scope(tenant="a", sharer="bc"))
    assert root_key(scope(tenant="plan", sharer="")) != root_key(scope(tenant="", sharer="plan"))


def test_page_key_covers_parent_and_tokens() -> None:
    root = root_key(scope())
    keys = {
        page_key(root, [1, 2]),
        page_key(root, [2, 1]),
        page_key(root, [1, 2, 0]),
        page_key(root, [12]),
        page_key(page_key(root, [1, 2]), [1, 2]),
    }
    assert len(keys) == 5


def test_encoding_is_stable() -> None:
    """Keys may be stored outside the process, so another encoding needs another schema version."""

    def frame(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<Q", len(data)) + data

    head = frame(b"s", b"lragent") + frame(b"s", b"page") + frame(b"i", struct.pack("<q", 2))
    fields = frame(b"b", b"parent") + frame(b"t", struct.pack("<2q", 7, -1))
    assert page_key(b"parent", [7, -1]) == hashlib.sha256(head + fields).digest()


@pytest.mark.parametrize("tokens", [[1 << 64], ["a"], [1.5]])
def test_tokens_that_are_no_integers_are_refused(tokens: list[object]) -> None:
    with pytest.raises(ValueError, match="integers"):
        page_key(b"", tokens)  # pyright: ignore[reportArgumentType]
