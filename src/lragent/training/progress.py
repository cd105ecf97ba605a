"""A progress bar for a training run, on stderr."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lragent.training.errors import TrainingError

_FAR = 3
"""Steps in a row whose loss must be far above the first one before a run counts as diverged."""


class ProgressBar(TrainerCallback):
    """Shows steps, loss and remaining time; keeps all losses, and stops a run that diverges."""

    def __init__(self, title: str, shown: bool) -> None:
        """`title` says what is trained; nothing is drawn unless `shown`."""
        self.losses: list[float] = []
        self._title = title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the bar, which a resumed run starts part of the way."""
        self.losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        # A guess among all tokens costs ln V; losing more than that means having unlearnt the base.
        self._guess = math.log(kwargs["model"].get_input_embeddings().num_embeddings)
        self._bar.start()
        self._task = self._bar.add_task(
            self._title, total=state.max_steps, completed=state.global_step, loss="-"
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Move the bar.

        Raises:
            TrainingError: the run has diverged; the message says by what that was seen.
        """
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])
            if reason := self._divergence(logs["loss"], logs.get("grad_norm")):
                raise TrainingError(
                    f"{self._title} diverged at step {state.global_step}: {reason}. Nothing was "
                    "saved of it; use a lower learning rate."
                )
            self._bar.update(self._task, completed=state.global_step, loss=f"{logs['loss']:.3f}")

    def _divergence(self, loss: float, gradient: float | None) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if gradient is not None and not math.isfinite(gradient):
            return f"the gradient's norm is {gradient}"
        if gradient == 0 and loss > 0:
            # Whatever is predicted wrongly has a gradient, unless activations have overflowed.
            return f"the loss is {loss:.3f}, but its gradient is exactly zero"
        limit = self.losses[0] + self._guess
        if len(self.losses) > _FAR and min(self.losses[-_FAR:]) > limit:
            first = self.losses[0]
            return f"the loss was above {limit:.3f} for {_FAR} steps, and {first:.3f} at first"
        return None

    def close(self) -> None:
        """Leave the bar as it stands, also after a failure."""
        self._bar.stop()
