"""The forward pass as served: against a slow one written apart from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.engine.models import tiny_model
from tests.training.reference import Reference, terms_of
from torch import Tensor
from torch.nn.functional import cross_entropy

from lragent.training import TrainingError, prepare_for_neutral
from lragent.training.lora import checkpoint_activations
from lragent.training.served import ServedForward
from lragent.training.turns import Turns

EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WITHOUT_KEYS = [target for target in EVERYWHERE if target != "k_proj"]
SAMPLES = [(12, 5), (1, 4), (17, 1), (7, 7)]
"""Tokens of prompt and output; a prompt of one token leaves no context."""


def lora_model(
    family: str = "llama", targets: list[str] = EVERYWHERE, **settings: Any
) -> PeftModel:
    """A tiny model in float64 with adapters `plan` and `act`, whose weights are all random."""
    base = tiny_model(family)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **settings
    )
    model = get_peft_model(base, config, adapter_name="plan").double()
    model.add_adapter("act", config)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, dtype=torch.float64) * 0.1
    model.set_adapter("act")
    return model.eval()


def base_of(model: PeftModel) -> Any:
    return model.get_base_model()


def batch(side: str, samples: list[tuple[int, int]] = SAMPLES) -> dict[str, Tensor]:
    """Random samples, padded on one side; the labels are the outputs."""
    torch.manual_seed(5)
    width = max(map(sum, samples))
    ids = torch.randint(3, 90, (len(samples), width))
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, (prompt, output) in enumerate(samples):
        first = width - prompt - output if side == "left" else 0
        mask[row, first : first + prompt + output] = 1
        labels[row, first + prompt : first + prompt + output] = ids[
            row, first + prompt : first + prompt + output
        ]
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def exact_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The model's own loss, without its cast to float32."""
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def expected_loss(
    model: PeftModel, inputs: dict[str, Tensor], reader: str | None, own: bool, earlier: int = 0
):
    """The loss by the reference; turns begin `earlier` tokens before the prompt's last one."""
    reference = Reference(model.get_base_model())
    reads = {} if reader is None else terms_of(model, reader)
    losses = []
    for ids, labels, mask in zip(*inputs.values(), strict=True):
        ids, labels = ids[mask.bool()], labels[mask.bool()]
        start = int((labels != -100).nonzero()[0, 0]) - 1 - earlier
        with torch.no_grad():
            fixed = {name: (a.detach(), b.detach(), s) for name, (a, b, s) in reads.items()}
        hidden = reference.hidden(ids, start, terms_of(model, "act"), fixed, own)
        logits = base_of(model).lm_head(hidden[start:-1])
        losses.append(cross_entropy(logits, labels[start + 1 :], reduction="sum"))
    return torch.stack(losses).sum() / (inputs["labels"] != -100).sum()


def gradients(model: PeftModel, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of the active adapter's parameters, by name; all of it must get some."""
    own = {n: p for n, p in model.named_parameters() if ".act." in n and p.requires_grad}
    assert own
    return dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))


def compare(model: PeftModel, inputs: dict[str, Tensor], reader: str | None, own: bool) -> None:
    loss = exact_loss(model(**inputs).logits, inputs["labels"])
    wanted = expected_loss(model, inputs, reader, own)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    found, right = gradients(model, loss), gradients(model, wanted)
    for name, gradient in right.items():
        # Norms and the rotation compute in float32, also in a float64 model.
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-4, atol=1e-6 * gradient.abs().max().item(), msg=name
        )


@pytest.mark.parametrize("side", ["left", "right", "unmasked"])
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("llama", EVERYWHERE),
        ("llama", ["q_proj", "v_proj"]),
        ("llama", ["o_proj", "down_proj"]),
        ("mistral", EVERYWHERE),
        ("qwen2", EVERYWHERE),
        ("qwen3", WITHOUT_KEYS),
    ],
    ids=["llama-all", "llama-qv", "llama-od", "mistral", "qwen2", "qwen3"],
)
def test_neutral_is_the_reference(family: str, targets: list[str], side: str) -> None:
    model = prepare_for_neutral(lora_model(family, targets))
    inputs = batch(side)
    wanted = expected_loss(model, inputs, None, True)
    if side == "unmasked":
        inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
        loss = exact_loss(model(**inputs).logits, inputs["labels"])
        torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    else:
        compare(model, inputs, None, True)


HEADER = [1, 2, 1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_turn_begins_at_the_last_acting_tokens(side: str) -> None:
    samples = [(12, 5), (3, 4), (17, 1), (9, 7)]
    inputs = batch(side, samples)
    for row, (prompt, _) in enumerate(samples):
        first = int(inputs["attention_mask"][row].argmax())
        # Also earlier in the prompt, and in what is learnt.
        for place in (first, first + prompt - len(HEADER), first + prompt + 1):
            text = inputs["input_ids"][row, place : place + len(HEADER)]
            text.copy_(torch.tensor(HEADER[: len(text)]))
    learnt = inputs["labels"] != -100
    inputs["labels"][learnt] = inputs["input_ids"][learnt]
    model = lora_model()
    wanted = expected_loss(model, inputs, None, True, earlier=len(HEADER) - 1)
    loss = exact_loss(prepare_for_neutral(model, HEADER)(**inputs).logits, inputs["labels"])
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)


def test_acting_tokens_that_no_sample_holds_are_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lragent.training.prepare.ENOUGH", 5)
    inputs = batch("right", [(12, 5), (3, 4)])
    inputs["input_ids"][:, :12] = 2
    model = prepare_for_neutral(lora_model(), HEADER)
    for samples in (2, 4, 6, 8):
        model(**inputs)
        assert len(caplog.records) == (samples > 5)
    assert "None of the first 6 prompts holds the acting tokens [1, 2, 1]" in caplog.text
    caplog.clear()
    for acting, place in ((HEADER, 4), ([1], 11)):  # the second is the prompt's last token
        model, held = prepare_for_neutral(lora_model(), acting), inputs["input_ids"].clone()
        held[0, place : place + len(acting)] = torch.tensor(acting)
        model(**{**inputs, "input_ids": held})
        for _ in range(4):
            model(**inputs)
    assert not caplog.records


@pytest.mark.parametrize("own_terms", [True, False], ids=["base+lr", "full"])
def test_another_role_reads(own_terms: bool) -> None:
    model, inputs = lora_model(), batch("right")
    model.get_submodule(
        "base_model.model.model.layers.0.self_attn.v_proj.lora_A.act"
    ).requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    served = ServedForward(model)
    served.reader, served.own_terms = "plan", own_terms
    served.turns = Turns.of(inputs["labels"], inputs["attention_mask"])
    compare(model, inputs, "plan", own_terms)
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}
    assert model.active_adapter == "act"


def test_isolated_is_the_ordinary_pass() -> None:
    model, inputs = lora_model(), batch("right")
    wanted = model(**inputs).logits
    ServedForward(model).isolated = True
    assert torch.equal(model(**inputs).logits, wanted)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    inputs = batch("right")
    found = []
    for checkpointing in (False, True):
        model = lora_model(lora_dropout=0.3)
        if checkpointing:
            checkpoint_activations(base_of(model), use_reentrant=reentrant)
            model.enable_input_require_grads()
        prepare_for_neutral(model).train()
        torch.manual_seed(7)
        first, second = model(**inputs).loss, model(**batch("left", [(9, 3)])).loss
        # The first pass is repeated after another batch went through.
        (first + second).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if ".act." in n})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_eager_attention_gives_the_same() -> None:
    inputs = batch("left")
    losses = []
    for kind in ("sdpa", "eager"):
        model = lora_model()
        base_of(model).set_attn_implementation(kind)
        losses.append(prepare_for_neutral(model)(**inputs).loss)
    torch.testing.assert_close(*losses)


def test_context_logits_are_the_base_models() -> None:
    model, inputs = lora_model(), batch("right", [(12, 5)])
    with model.disable_adapter():
        base = model(**inputs).logits
    logits = prepare_for_neutral(model)(**inputs).logits
    torch.testing.assert_close(logits[:, :11], base[:, :11])
    assert not torch.allclose(logits[:, 11:], base[:, 11:])


def test_a_row_without_labels_counts_for_nothing() -> None:
    model = prepare_for_neutral(lora_model())
    inputs = batch("right", [(12, 5), (9, 4)])
    inputs["labels"][1] = -100
    alone = batch("right", [(12, 5), (9, 4)])
    one = {name: value[:1] for name, value in alone.items()}
    torch.testing.assert_close(model(**inputs).loss, model(**one).loss)


def test_bf16_runs_and_is_near() -> None:
    inputs = batch("left")
    model = prepare_for_neutral(lora_model())
    exact = model(**inputs).loss.item()
    low = prepare_for_neutral(lora_model().float())
    with torch.autocast("cpu", torch.bfloat16):
        loss = low(**inputs).loss
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("labels"), "needs labels"),
        (lambda b: b["labels"].__setitem__((0, 13), -100), "several turns"),
        (lambda b: b.update(position_ids=torch.arange(18).remainder(9)[None]), "packed"),
        (lambda b: b.update(cu_seq_lens_q=torch.tensor([0, 9, 18])), "packed"),
        (lambda b: b.update(inputs_embeds=torch.zeros(4, 18, 48), input_ids=None), "input_ids"),
        (lambda b: b.update(attention_mask=torch.ones(4, 1, 18, 18)), "two dimensions"),
        (lambda b: b.update(output_hidden_states=True), "output_hidden_states"),
    ],
    ids=["labels", "turns", "positions", "padding-free", "embeddings", "mask", "hidden"],
)
def test_batches_that_cannot_be_trained_on_are_refused(change: Any, message: str) -> None:
    model, inputs = prepare_for_neutral(lora_model()), batch("right")
    change(inputs)
    with pytest.raises(TrainingError, match=message):
        model(**inputs)


def test_longer_than_the_sliding_window_is_refused() -> None:
    model = prepare_for_neutral(lora_model("mistral"))
    with pytest.raises(TrainingError, match=r"up to 44 tokens exceed .* sliding window of 40"):
        model(**batch("right", [(40, 4)]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: tiny_model(), "no PEFT model with LoRA"),
        (lambda: lora_model("qwen3"), "normalises keys after k_proj"),
        (lambda: lora_model(use_dora=True), "adapter 'plan': use_dora"),
        (lambda: lora_model(targets=["v_proj", "lm_head"]), "adapter 'plan': .*lm_head"),
        (lambda: lora_model(alora_invocation_tokens=[5]), "aLoRA"),
    ],
    ids=["plain", "key-norm", "dora", "head", "alora"],
)
def test_models_that_cannot_be_served_are_refused(model: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        prepare_for_neutral(model())
