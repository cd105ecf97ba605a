"""What vLLM's engine process does to a configuration once everything is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.models import prompt_of
from tests.vllm.serving import Ask, Embedded, Served, folders, sharing


@pytest.mark.every_version
def test_a_configuration_set_up_again_loses_nothing(root: Path):
    """After the start vLLM sets its configuration up once more, which gives it a new id."""
    adapters = folders(root, "shared")
    asks = [Ask(name, prompt_of(70)) for name in ("plan", "act")]
    with Served(root / "llama", adapters, sharing("base+lr", adapters)) as served:
        config = served.llm.llm_engine.vllm_config
        before = config.instance_id
        config.__post_init__()
        assert config.instance_id != before
        got = [served.ask(ask)[0] for ask in asks]
    with Embedded(adapters, "base+lr") as embedded:
        expected = [embedded.ask(ask)[0] for ask in asks]
    assert [answer.tokens for answer in got] == [answer.tokens for answer in expected]
    assert got[1].cached == 64
