"""The model card of a trained adapter."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from lragent.training.config import Mode, TrainConfig, TrainedFor
from lragent.training.report import RoleResult
from lragent.training.samples import DataFile

_HOW = {
    Mode.SHARED_A: "{first} was trained first; the other adapters keep its A of {shared}, so all "
    "of them can use one low-rank cache.",
    Mode.JOINT: "The adapters were trained together and have one A of {shared}, so all of them "
    "can use one low-rank cache.",
    Mode.SEPARATE: "An ordinary adapter with an A of its own.",
}

_FOR = {
    TrainedFor.NEUTRAL: "It is made for sharing under `neutral`: in training the base model read "
    "each context, and the adapter acted from the position on that `lragent.json` names.",
    TrainedFor.BASE_LR: "It is made for sharing under `base+lr`: in training {reader} read each "
    "context, and the adapter acted from the prompt's last token on.",
    TrainedFor.ISOLATED: "It was trained to read its contexts itself (`isolated`).",
}


def model_card(config: TrainConfig, result: RoleResult, files: Sequence[DataFile]) -> str:
    """README.md of one role's adapter: what it is, data, command, time, results, licence."""
    header = ["---", f"base_model: {config.model}", "library_name: peft"]
    header += ["pipeline_tag: text-generation", "tags: [lora, lragent]"]
    if config.licence:
        header.append(f"license: {config.licence}")
    how = _HOW[config.mode].format(
        first=config.roles[0], shared=" and ".join(config.shared_projections)
    )
    reader = "any role" if config.readers == "random" else config.roles[0]
    how += " " + _FOR[config.trained_for].format(reader=reader)
    data = "\n".join(
        f"- `{file.name}`: {file.samples} samples, SHA-256 `{file.sha256}`" for file in files
    )
    dropped = f" ({result.dropped} longer ones left out)" if result.dropped else ""
    held_out = "" if result.eval_loss is None else f", {result.eval_loss:.3f} on held-out samples"
    together = " (all roles together)" if config.mode is Mode.JOINT else ""
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "peft"))
    sections = [
        "\n".join([*header, "---"]),
        f"# {config.group_name}: {result.role}",
        f"LoRA adapter for the role `{result.role}` of the group `{config.group_name}` over "
        f"`{config.model}`: rank {config.rank}, alpha {config.alpha:g}, on "
        f"{', '.join(config.targets)}. {how}",
        "## Training",
        f"    {config.command()}",
        f"{result.samples} samples of this role{dropped}, {result.steps} steps{together} in "
        f"{result.seconds:.0f} s on {result.device}; {packages}. Loss on the outputs "
        f"{result.first_loss:.3f} at the start, {result.last_loss:.3f} at the end{held_out}.",
        "## Data",
        data,
    ]
    if config.data_note:
        sections.append(config.data_note)
    if config.licence:
        sections += ["## Licence", config.licence]
    return "\n\n".join(sections) + "\n"
