"""Bodies that are near right ones: whatever is wrong is the client's fault, and named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.server.serving import Served, serving

from lragent.server.protocol.chat import ChatBody
from lragent.server.protocol.completions import CompletionBody
from lragent.server.protocol.models import LoadBody, UnloadBody

RIGHT: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "chat/completions": (ChatBody, {"messages": [{"role": "user", "content": "Hi"}]}),
    "completions": (CompletionBody, {"prompt": "Hi"}),
    "load_lora_adapter": (LoadBody, {"lora_name": "new", "lora_path": "/no/folder"}),
    "unload_lora_adapter": (UnloadBody, {"lora_name": "none"}),
}
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates, too
NUMBERS = st.integers(-3, 40) | st.integers() | st.floats()
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from(["plan", "base", "user"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXTS | st.sampled_from(["role", "content", "type", "text"]), inner)
    ),
    max_leaves=8,
)


def bodies(path: str) -> st.SearchStrategy[Any]:
    """A right body with a few fields changed, or any JSON at all."""
    model, right = RIGHT[path]
    fields = st.sampled_from(sorted(model.model_fields)) | TEXTS
    changes = st.dictionaries(fields, VALUES, max_size=4)
    return changes.map(lambda changed: {**right, **changed}) | VALUES


@pytest.fixture(scope="module")
def small() -> Iterator[Served]:
    """A cache of few pages, so that no request is long."""
    with serving({}, kv_bytes=64 << 10) as served:
        yield served
        served.idle()


@pytest.mark.parametrize("path", sorted(RIGHT))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_is_the_servers_fault(small: Served, path: str, data: st.DataObject):
    content = json.dumps(data.draw(bodies(path)))
    with small.http() as http:
        answer = http.post(
            f"/v1/{path}", content=content, headers={"Content-Type": "application/json"}
        )
    if answer.status_code != 200:
        assert answer.status_code in (400, 404), (answer.text, content)
        error = answer.json()["error"]
        assert error["message"]
        assert error["type"] in ("invalid_request_error", "not_found_error")


@given(method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]), path=TEXTS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_address_is_the_servers_fault(small: Served, method: str, path: str):
    clean = path.encode("utf-8", "replace").decode()
    with small.http() as http:
        try:
            answer = http.request(method, f"/v1/{clean}")
        except httpx.InvalidURL:
            return
    assert answer.status_code in (200, 307, 404, 405), answer.text
