"""Twenty steps on a tiny random Llama: what is learnt, shared, saved, and continued."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.training.conftest import ROLES, make_samples
from transformers import (
    AutoModelForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lragent.adapters import read_adapter
from lragent.training import Mode, TrainConfig, TrainingError, train
from lragent.training.progress import ProgressBar
from lragent.training.served import ServedForward
from lragent.training.trainer import RoleTrainer

Make = Callable[..., TrainConfig]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(left: Path, right: Path, part: str = "") -> bool:
    a, b = tensors(left), tensors(right)
    return all(torch.equal(a[name], b[name]) for name in a if part in name)


@pytest.mark.parametrize("save_dtype", ["float32", "bfloat16"])
def test_shared_a(make_config: Make, tiny_model: Path, save_dtype: str) -> None:
    config = make_config(save_dtype=save_dtype, licence="cc-by-sa-4.0", max_length=13)
    report = train(config, show_progress=False)

    plan, act, reflect = (config.out / role for role in ROLES)
    for other in (act, reflect):
        assert same(plan, other, "v_proj.lora_A")
        assert not same(plan, other, "q_proj.lora_A")
        assert not same(plan, other, "v_proj.lora_B")
    assert {t.dtype for t in tensors(act).values()} == {getattr(torch, save_dtype)}
    digests = {trained.a_digests["v_proj"] for trained in report.roles}
    assert len(digests) == 1
    for trained in report.roles:
        assert trained.result.last_loss < 0.8 * trained.result.first_loss
        assert trained.result.steps == 20
        assert trained.result.dropped > 0
        folder = Path(trained.folder)
        sidecar = json.loads((folder / "lragent.json").read_text())
        assert sidecar["role"] == folder.name
        assert {sidecar["a_digest"]["v_proj"]} == digests
        assert (sidecar["trained_for"], sidecar["acting_tokens"]) == ("neutral", None)
        assert len(trained.result.losses) == 20
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(tiny_model)
        assert settings["target_modules"] == ["q_proj", "v_proj"]
        card = (folder / "README.md").read_text()
        facts = ("lragent train --data", "samples.jsonl", "20 steps", "cc-by-sa-4.0", "`neutral`")
        for fact in facts:
            assert fact in card
    assert not (config.out / ".checkpoints").exists()


def test_a_role_acts_from_a_text_of_the_prompt_on(
    make_config: Make, tokenizer: Any, tmp_path: Path
) -> None:
    folders = []
    for text in ("", "<end> <assistant>"):
        config = make_config(max_steps=3, acting_text=text, out=tmp_path / f"from {text}")
        train(config, show_progress=False)
        folders.append(config.out / "plan")
    last, header = folders
    tokens = tokenizer.convert_tokens_to_ids(["<end>", "<assistant>"])
    assert read_adapter(header).acting_tokens == tuple(tokens)
    assert not same(last, header, "v_proj.lora_B")
    assert "--acting-text" in (header / "README.md").read_text()

    for text in ("w1 w1 w1", "\n"):  # this tokenizer has no token for a line break
        with pytest.raises(TrainingError, match="no prompt holds the acting text"):
            train(make_config(acting_text=text, overwrite=True), show_progress=False)


def test_peft_loads_each_adapter(make_config: Make, tiny_model: Path) -> None:
    config = make_config(max_steps=2)
    train(config, show_progress=False)
    ids = torch.arange(5, 15)[None]

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    logits = [base(ids).logits.detach()]
    for role in ROLES:
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tiny_model), str(config.out / role)
        )
        logits.append(model(ids).logits.detach())

    assert all(not torch.equal(logits[0], other) for other in logits[1:])


def test_joint_roles_change_one_a(make_config: Make) -> None:
    config = make_config(mode="joint", max_steps=40, role_learning_rates={"act": 3e-2})
    report = train(config, show_progress=False)

    plan, act, reflect = (config.out / role for role in ROLES)
    for other in (act, reflect):
        assert same(plan, other, "v_proj.lora_A")
        assert not same(plan, other, "q_proj.lora_A")
    assert report.roles[0].result.last_loss < 0.9 * report.roles[0].result.first_loss
    for role in ROLES:
        assert all(t.abs().max() > 0 for n, t in tensors(config.out / role).items() if "B" in n)


@pytest.mark.parametrize(
    ("settings", "read_by"),
    [
        ({"trained_for": "isolated"}, {"plan": [], "act": [], "reflect": []}),
        ({}, {"plan": [None], "act": [None], "reflect": [None]}),
        ({"mode": "joint"}, {"plan": [None], "act": [None], "reflect": [None]}),
        ({"trained_for": "base+lr"}, {"plan": [], "act": ["plan"], "reflect": ["plan"]}),
        (
            {"trained_for": "base+lr", "mode": "separate"},
            {"plan": [], "act": ["plan"], "reflect": ["plan"]},
        ),
        (
            {"trained_for": "base+lr", "mode": "joint"},
            {"plan": [], "act": ["plan"], "reflect": ["plan"]},
        ),
        (
            {"trained_for": "base+lr", "mode": "joint", "readers": "random"},
            {"plan": ["act", "reflect"], "act": ["plan", "reflect"], "reflect": ["act", "plan"]},
        ),
    ],
    ids=["isolated", "neutral", "joint", "first", "first-separate", "first-joint", "random"],
)
def test_who_reads_the_contexts(
    monkeypatch: pytest.MonkeyPatch,
    make_config: Make,
    settings: dict[str, Any],
    read_by: dict[str, list[str | None]],
) -> None:
    seen: dict[str, set[str | None]] = {role: set() for role in ROLES}
    reading = ServedForward._reading

    def noted(self: ServedForward) -> Any:
        seen[self._model.active_adapters[0]].add(self.reader)
        return reading(self)

    monkeypatch.setattr(ServedForward, "_reading", noted)
    steps = 30 if settings.get("mode") == "joint" else 3
    config = make_config(max_steps=steps, accumulation=1, **settings)
    train(config, show_progress=False)

    assert {role: sorted(by, key=str) for role, by in seen.items()} == read_by
    sidecar = json.loads((config.out / "act" / "lragent.json").read_text())
    assert sidecar["trained_for"] == config.trained_for.value
    if config.mode is not Mode.SEPARATE:
        assert same(config.out / "plan", config.out / "act", "v_proj.lora_A")


def test_a_reader_is_left_as_it_was(make_config: Make) -> None:
    settings = {"trained_for": "base+lr", "max_steps": 3}
    config = make_config(**settings)
    train(config, show_progress=False)
    before = (config.out / "plan" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(config.out / "reflect")
    train(config, show_progress=False)
    assert (config.out / "plan" / "adapter_model.safetensors").read_bytes() == before


def test_gradient_checkpointing_trains_the_same(make_config: Make, tmp_path: Path) -> None:
    outs = []
    for name, checkpointing in (("whole", False), ("again", True)):
        config = make_config(max_steps=3, out=tmp_path / name, gradient_checkpointing=checkpointing)
        train(config, show_progress=False)
        outs.append(tensors(config.out / "act"))
    for name, value in outs[0].items():
        torch.testing.assert_close(outs[1][name], value, rtol=1e-4, atol=1e-6)


def test_separate_roles_share_nothing(make_config: Make) -> None:
    config = make_config(mode="separate", max_steps=2)
    train(config, show_progress=False)

    assert not same(config.out / "plan", config.out / "act", "v_proj.lora_A")


class _PullsThePlug(TrainerCallback):
    """Stops the run as a killed process would, without any clean-up by the trainer."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt


def interrupt(monkeypatch: pytest.MonkeyPatch, config: TrainConfig, role: str, step: int) -> None:
    """Run until `step` of the round that begins with `role`."""
    with monkeypatch.context() as patch:
        prepare = RoleTrainer.__init__

        def rigged(self: Any, model: Any, roles: Any, *rest: Any) -> None:
            prepare(self, model, roles, *rest)
            if roles[0] == role:
                self.add_callback(_PullsThePlug(step))

        patch.setattr(RoleTrainer, "__init__", rigged)
        with pytest.raises(KeyboardInterrupt):
            train(config, show_progress=False)


@pytest.mark.parametrize(
    ("mode", "purpose"),
    [
        ("shared-a", {}),
        ("joint", {}),
        ("shared-a", {"trained_for": "isolated"}),
        ("joint", {"trained_for": "base+lr", "readers": "random"}),
    ],
    ids=["shared-a", "joint", "isolated", "random-readers"],
)
def test_interrupted_run_continues_to_the_same_adapters(
    monkeypatch: pytest.MonkeyPatch,
    make_config: Make,
    tmp_path: Path,
    mode: str,
    purpose: dict[str, str],
) -> None:
    settings = {"mode": mode, "max_steps": 8, "checkpoint_every": 3, **purpose}
    whole = make_config(out=tmp_path / "whole", **settings)
    train(whole, show_progress=False)

    config = make_config(out=tmp_path / "broken", **settings)
    broken_role = "plan" if mode == "joint" else "act"
    interrupt(monkeypatch, config, broken_role, 7)
    unfinished = config.out / ".checkpoints"
    assert sorted(path.name for path in unfinished.glob("*/checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-6",
    ]
    # The machine died while the newest checkpoint was being written.
    newest = next(unfinished.glob("*/checkpoint-6"))
    (newest / "trainer_state.json").write_text('{"global_st')

    report = train(config, show_progress=False)

    assert [trained.kept for trained in report.roles] == [mode != "joint", False, False]
    assert all(len(trained.result.losses) == 8 for trained in report.roles)
    assert all(same(whole.out / role, config.out / role) for role in ROLES)


def test_finished_run_trains_nothing(monkeypatch: pytest.MonkeyPatch, make_config: Make) -> None:
    config = make_config(max_steps=1)
    first = train(config, show_progress=False)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr("lragent.training.session.load_model", fails)
    again = train(config, show_progress=False)

    assert all(trained.kept for trained in again.roles)
    assert [t.result for t in again.roles] == [t.result for t in first.roles]


def test_deleted_adapter_is_trained_again(make_config: Make) -> None:
    config = make_config(max_steps=1)
    train(config, show_progress=False)
    shutil.rmtree(config.out / "reflect")

    report = train(config, show_progress=False)

    assert [trained.kept for trained in report.roles] == [True, True, False]


def test_other_settings_or_data_are_refused_until_overwrite(
    make_config: Make, write_samples: Callable[..., Path]
) -> None:
    config = make_config(max_steps=1)
    train(config, show_progress=False)

    with pytest.raises(TrainingError, match=r"rank \(4, now 2\).*--overwrite"):
        train(config.model_copy(update={"rank": 2}), show_progress=False)
    other = write_samples(make_samples(12, seed=9), "other.jsonl")
    with pytest.raises(TrainingError, match="the data"):
        train(config.model_copy(update={"data": (other,)}), show_progress=False)
    train(config.model_copy(update={"rank": 2, "overwrite": True}), show_progress=False)
    assert read_adapter(config.out / "plan").rank == 2


def test_foreign_folder_is_left_alone(make_config: Make) -> None:
    config = make_config(max_steps=1)
    (config.out / "plan").mkdir(parents=True)
    (config.out / "plan" / "notes.txt").write_text("mine")

    with pytest.raises(TrainingError, match="not made by a training run"):
        train(config, show_progress=False)
    assert (config.out / "plan" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("device", ["gpu!", "cuda:99"])
def test_no_such_device(make_config: Make, device: str) -> None:
    config = make_config(device=device)
    with pytest.raises(TrainingError, match=f"device='{device}' is no device here"):
        train(config, show_progress=False)
    assert not config.out.exists()


def test_all_samples_too_long(make_config: Make) -> None:
    with pytest.raises(TrainingError, match="every sample of plan is longer than 3 tokens"):
        train(make_config(max_length=3), show_progress=False)


def test_diverging_run_stops(make_config: Make) -> None:
    config = make_config(learning_rate=1e30, warmup=0)

    with pytest.raises(TrainingError, match=r"training plan diverged at step \d.*learning rate"):
        train(config, show_progress=False)
    assert not (config.out / "plan").exists()


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([(2.0, 1.0), (math.nan, 1.0)], "the loss is nan"),
        ([(2.0, 1.0), (2.0, math.inf)], "the gradient's norm is inf"),
        ([(2.0, 1.0), (9.0, 0.0)], "gradient is exactly zero"),
        (
            [(2.0, 1.0), *[(2.1 + math.log(45), 1.0)] * 3],
            r"above 5\.807 for 3 steps.* 2\.000 at first",
        ),
    ],
    ids=["loss", "gradient", "saturated", "unlearnt"],
)
def test_divergence_is_named(
    tiny_model: Path, steps: list[tuple[float, float]], reason: str
) -> None:
    bar, log = started_bar(tiny_model)
    for loss, gradient in steps[:-1]:
        log(loss, gradient)
    with pytest.raises(TrainingError, match=f"{reason}.*Nothing was saved.*lower learning rate"):
        log(*steps[-1])
    assert len(bar.losses) == len(steps)


def test_learnt_and_noisy_runs_have_not_diverged(tiny_model: Path) -> None:
    _, log = started_bar(tiny_model)
    far = 2.1 + math.log(45)
    for loss, gradient in [(2.0, 1.0), (far, 1.0), (far, 1.0), (1.0, 1.0), (far, 1.0), (0.0, 0.0)]:
        log(loss, gradient)


def started_bar(model: Path) -> tuple[ProgressBar, Callable[[float, float], None]]:
    """The bar of a run that begins, and a function that reports a step to it."""
    bar = ProgressBar("training plan", shown=False)
    state, arguments, control = TrainerState(), TrainingArguments(), TrainerControl()
    bar.on_train_begin(arguments, state, control, model=AutoModelForCausalLM.from_pretrained(model))

    def log(loss: float, gradient: float) -> None:
        bar.on_log(arguments, state, control, logs={"loss": loss, "grad_norm": gradient})

    return bar, log


def test_unknown_target(make_config: Make) -> None:
    config = make_config(targets=("q_prj", "v_proj"))

    with pytest.raises(TrainingError, match="no linear layer 'q_prj'; did you mean 'q_proj'"):
        train(config, show_progress=False)


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        ("lragent.training.trainer.save_file", OSError(28, "No space left on device")),
        ("lragent.training.output.save_file", OSError(28, "No space left on device")),
        ("torch.save", RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter")),
    ],
    ids=["checkpoint", "adapter", "optimizer"],
)
def test_full_disk_says_so_and_the_run_can_go_on(
    monkeypatch: pytest.MonkeyPatch, make_config: Make, writer: str, error: Exception
) -> None:
    config = make_config(max_steps=2, checkpoint_every=1)

    def no_space(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(writer, no_space)
        with pytest.raises(TrainingError, match=r"cannot be written.*run the same command again"):
            train(config, show_progress=False)
    assert not (config.out / "plan").exists()

    report = train(config, show_progress=False)
    assert all((config.out / role / "lragent.json").is_file() for role in ROLES)
    assert report.roles[0].result.steps == 2


def test_same_run_gives_the_same_bits_and_leaves_torch_as_it_was(
    make_config: Make, tmp_path: Path
) -> None:
    runs = [make_config(max_steps=3, out=tmp_path / name) for name in ("first", "second")]
    for config in runs:
        train(config, show_progress=False)
        assert not torch.are_deterministic_algorithms_enabled()
        assert cast(Any, torch.utils.deterministic).fill_uninitialized_memory
    for role in ROLES:
        weights = [(c.out / role / "adapter_model.safetensors").read_bytes() for c in runs]
        assert weights[0] == weights[1]
