"""What a server lists, and adapters that come and go while it runs."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest
from openai.types import Model
from tests.server.serving import KEY, Served, options_of, serving


def test_adapters_are_children_of_the_base_model(client: openai.OpenAI):
    listed = client.models.list()
    assert [each.id for each in listed] == ["base", "plan", "act"]
    for each in listed:
        Model.model_validate(each.model_dump(), strict=True)
    assert [each.model_extra["parent"] for each in listed if each.model_extra] == [
        None, "base", "base",
    ]  # fmt: skip
    assert client.models.retrieve("act").id == "act"


def test_loading_and_unloading(adapters: dict[str, Path]):
    with serving({"plan": adapters["plan"]}) as served, served.http() as http:

        def post(what: str, **body: object) -> tuple[int, str]:
            answer = http.post(f"/v1/{what}_lora_adapter", json=body)
            return answer.status_code, answer.text

        def names() -> list[str]:
            return [each["id"] for each in http.get("/v1/models").json()["data"]]

        act = str(adapters["act"])
        assert post("load", lora_name="act", lora_path=act)[0] == 200
        assert names() == ["base", "plan", "act"]
        answer = http.post("/v1/completions", json={"model": "act", "prompt": "a" * 40})
        assert answer.status_code == 200
        status, text = post("load", lora_name="act", lora_path=act)
        assert (status, "send load_inplace" in text) == (400, True)
        other = str(adapters["reflect"])
        assert post("load", lora_name="act", lora_path=other, load_inplace=True)[0] == 200
        status, text = post("load", lora_name="x", lora_path="/no/folder")
        assert (status, "/no/folder" in text) == (400, True)
        assert post("load", lora_name="base", lora_path=act)[0] == 400
        assert post("load", lora_name="", lora_path=act)[0] == 400
        status, text = post("unload", lora_name="act")
        assert (status, "bytes of KV cache were freed" in text) == (200, True)
        status, text = post("unload", lora_name="act")
        assert (status, json.loads(text)["error"]["param"]) == (404, "lora_name")
        assert names() == ["base", "plan"]
        [report] = http.get("/v1/lragent/stats").json()["engines"]
        assert report["unloaded"]["adapters"] == 1
        served.idle()


def test_adapters_are_fixed_unless_the_operator_says_otherwise(adapters: dict[str, Path]):
    with serving({}, options_of(runtime_adapters=False)) as served, served.http() as http:
        body = {"lora_name": "plan", "lora_path": str(adapters["plan"])}
        for what in ("load", "unload"):
            answer = http.post(f"/v1/{what}_lora_adapter", json=body)
            assert answer.status_code == 403
            assert "--runtime-adapters" in answer.json()["error"]["message"]


def test_an_adapter_cannot_have_the_base_models_name(adapters: dict[str, Path]):
    with (
        pytest.raises(ValueError, match="both named 'base'"),
        serving({"base": adapters["plan"]}),
    ):
        pass


def test_a_server_of_ours_is_one_for_our_own_client(served: Served):
    from lragent.agents.backend import CallParams
    from lragent.agents.openai_backend import OpenAIBackend

    backend = OpenAIBackend(f"{served.url}/v1", base_model="base", api_key=KEY)
    messages = [
        {"role": "user", "content": "Hand over to the next agent."},
        {"role": "assistant", "content": "Thought:"},
    ]
    params = CallParams(max_tokens=8)
    for adapter in ("plan", "act"):
        chunks = list(backend.complete(messages, adapter=adapter, params=params))
        assert chunks[-1].finish_reason == "length"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.generated_tokens == 8
    assert chunks[-1].usage.cached_tokens
