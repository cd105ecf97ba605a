"""From which text of a prompt on roles act, for tokenizers of different kinds and in a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.conftest import ROLES
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lragent.adapters import read_adapter
from lragent.sharing.turns import last_occurrence
from lragent.training import TrainConfig, TrainingError, acting, train
from lragent.training.acting import acting_tokens, tool_output, turn_tokens

Make = Callable[..., TrainConfig]
PROMPT = (
    "Answer with a Thought and an Action; an Observation follows.\n"
    "Action Input: the input\nObservation: the result\nBegin.\nAction 1: Search[x]\n"
    "Observation 1: It is so.\nAction 2: Finish[y]\nObservation 2: It ends.\nThought 3:"
)


def words(pieces: Any) -> Any:
    """A tokenizer whose tokens are the pieces of the prompt, and line breaks."""
    known = sorted({word for word, _ in pieces.pre_tokenize_str(PROMPT)} | {"<unk>", "\n", "\n\n"})
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pieces
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


# Every text begins with a space, also "\nObservation" alone.
LLAMA_2 = pre_tokenizers.Sequence(
    [pre_tokenizers.Metaspace(), pre_tokenizers.Split("\n", behavior="isolated")]
)
# A line break belongs to the bracket or full stop before it.
LLAMA_3 = pre_tokenizers.Split(
    Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"), behavior="isolated"
)
GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize(
    ("pieces", "found"),
    [(LLAMA_2, "\nObservation"), (LLAMA_3, "Observation"), (GPT_2, "\nObservation")],
    ids=["Llama 2", "Llama 3", "GPT-2"],
)
def test_the_last_line_of_an_observation(pieces: Any, found: str) -> None:
    tokenizer = words(pieces)
    ids = tokenizer(PROMPT)["input_ids"]
    assert tool_output([ids], tokenizer) == found
    place = last_occurrence(ids, acting_tokens(found, tokenizer))
    assert place is not None
    rest = "".join(tokenizer.convert_ids_to_tokens(ids[place:]))
    assert rest.lstrip("\nĊ").startswith("Observation")
    assert rest.count("Observation") == 1  # the last one
    assert "2" in rest
    # The word in the instructions is none.
    instructions = tokenizer(PROMPT.partition("\n")[0])["input_ids"]
    assert tool_output([instructions], tokenizer) == ""


def test_a_text_that_few_prompts_hold_is_not_taken() -> None:
    tokenizer = words(GPT_2)
    holds, lacks = (tokenizer(text)["input_ids"] for text in (PROMPT, "Question: who?"))
    assert tool_output([holds, lacks, lacks, lacks], tokenizer) == "\nObservation"
    assert tool_output([holds, lacks, lacks, lacks, lacks], tokenizer) == ""
    assert tool_output([], tokenizer) == ""
    assert acting_tokens("", tokenizer) == []


def test_turns_are_of_prompts_that_hold_the_text() -> None:
    tokenizer = words(GPT_2)
    longer, lacks = (tokenizer(text)["input_ids"] for text in (PROMPT + " 2 2", "Question: who?"))
    prompt = tokenizer(PROMPT)["input_ids"]
    place = last_occurrence(prompt, acting_tokens("\nObservation", tokenizer))
    assert place is not None
    turn = len(prompt) - place
    more = turn + len(longer) - len(prompt)
    assert turn_tokens("\nObservation", [prompt, lacks, longer], tokenizer) == [turn, more]
    assert more > turn
    assert turn_tokens("\nObservation", [lacks], tokenizer) == []
    assert turn_tokens("", [prompt], tokenizer) == []


def test_long_turns_are_named(
    make_config: Make,
    write_samples: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The median of those that hold the text is 4.
    prompts = ("w7 w1", "w7 w1 w2 w3", "w7 w1 w2 w3 w4 w5", "w1", "w2")
    data = [write_samples([{"role": "plan", "input": text, "output": "w5"} for text in prompts])]
    for limit, said in ((4, 0), (3, 1)):
        monkeypatch.setattr("lragent.training.acting.LONG_TURN", limit)
        config = make_config(
            data=data, max_steps=1, roles=("plan",), acting_text="w7", overwrite=True
        )
        train(config, show_progress=False)
        assert len(caplog.records) == said
    assert "the acting text 'w7' have" in caplog.text


def test_without_an_acting_text_roles_act_from_the_tool_s_output_that_prompts_hold(
    make_config: Make,
    write_samples: Callable[..., Path],
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(acting, "TOOL_OUTPUTS", ("w9 w9", "w7"))

    def tokens(prompts: dict[str, list[str]], **settings: Any) -> list[tuple[int, ...] | None]:
        samples = [
            {"role": role, "input": f"w1 {word} w2", "output": "w5"}
            for role, words in prompts.items()
            for word in words
        ]
        config = make_config(
            data=[write_samples(samples)], max_steps=1, roles=("plan", "act"), overwrite=True,
            **settings,
        )  # fmt: skip
        train(config, show_progress=False)
        return [read_adapter(config.out / role).acting_tokens for role in config.roles]

    # One text for all roles, those too whose own prompts never hold it.
    mostly = {"plan": ["w8"] * 2, "act": ["w7", "w8"]}
    mark = (tokenizer.convert_tokens_to_ids("w7"),)
    assert tokens(mostly) == [mark] * 2
    assert tokens(mostly, mode="joint") == [mark] * 2
    assert tokens(mostly, acting_text="") == [None] * 2
    assert tokens(mostly, trained_for="isolated") == [None] * 2
    assert not caplog.records
    assert tokens({"plan": ["w8"] * 3, "act": ["w8", "w7"]}) == [None] * 2
    assert [record.getMessage()[:48] for record in caplog.records] == [
        "The roles will act from each prompt's last token"
    ]


def test_an_interrupted_run_keeps_its_acting_text(
    make_config: Make, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "TOOL_OUTPUTS", ("<assistant>",))
    train(make_config(max_steps=1), show_progress=False)
    config = make_config(max_steps=1)
    record = json.loads((config.out / "training.json").read_text())
    del record["finished"]["reflect"]
    (config.out / "training.json").write_text(json.dumps(record))
    shutil.rmtree(config.out / "reflect")
    monkeypatch.setattr(acting, "TOOL_OUTPUTS", ("<user>",))
    train(config, show_progress=False)
    mark = (tokenizer.convert_tokens_to_ids("<assistant>"),)
    assert [read_adapter(config.out / role).acting_tokens for role in ROLES] == [mark] * 3
    card = (config.out / "reflect" / "README.md").read_text()
    assert "--acting-text '<assistant>'" in card
    again = train(make_config(max_steps=1, acting_text="<assistant>"), show_progress=False)
    assert all(role.kept for role in again.roles)  # the card's command is the same run
    with pytest.raises(TrainingError, match="acting_text"):
        train(make_config(max_steps=1, acting_text="<user>"), show_progress=False)
