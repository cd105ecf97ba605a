"""What `lragent demo` found, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from lragent.agents.policy_comparison import Answer, PolicyOutcome
from lragent.sharing.policies import Policy

_MIB = 1 << 20
_NOTE = (
    "Tokens, bytes and times: the run shown above, replayed token by token under each policy on a "
    "fresh engine, so that the work asked for is the same. Answers: the policy's own."
)


@dataclass
class DemoReport:
    """The outcome of each policy that was run; `answers` are those of the policy `shown`."""

    model: str
    documents: int
    shown: Policy
    answers: Sequence[Answer]
    outcomes: list[PolicyOutcome] = field(default_factory=list)

    @property
    def found(self) -> int:
        """Questions answered right after opening every document that holds the answer."""
        return sum(answer.right and answer.found for answer in self.answers)

    @property
    def training(self) -> str:
        """What the adapters were trained for, and what that means for the other policies."""
        if not self.shown.base_reads:
            return "These adapters were not all trained for neutral, which is therefore left out."
        return (
            "These adapters were trained for neutral: the base model read what came before an "
            "agent's turn, and they learnt to go on from there. Under the other policies adapters "
            "read all of it, which these have never learnt: expect worse answers there. Under "
            "neutral a turn is not shared, and in short runs like this one it is much of a prompt."
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types: bytes, seconds, and tokens a second."""
        return {
            "model": self.model,
            "documents": self.documents,
            "shown_policy": self.shown.value,
            "questions": [answer.question.model_dump() for answer in self.answers],
            "answered_right_from_documents": self.found,
            "policies": [_policy(outcome) for outcome in self.outcomes],
        }

    def __rich_console__(self, *_: object) -> Iterator[Table | Text]:
        """Answers, costs, and the verdict."""
        if self.outcomes:
            yield self._answers()
            yield _costs(self.outcomes)
            yield Text(f"{_NOTE}\n{self.training}", style="dim")
        asked = len(self.answers)
        yield Text(
            f"\nThe agents answered {self.found} of {asked} multi-hop questions right under "
            f"{self.shown}, having opened the documents that hold the answer.",
            style="bold green" if self.found else "bold red",
        )

    def _answers(self) -> Table:
        table = Table(title="Answers", title_justify="left", show_lines=True)
        table.add_column("question", ratio=2)
        table.add_column("right answer")
        for outcome in self.outcomes:
            table.add_column(outcome.policy.value)
        for i, shown in enumerate(self.answers):
            row = [Text(shown.question.question), Text(shown.question.answer)]
            for outcome in self.outcomes:
                answer = outcome.answers[i]
                reason = answer.result.status.replace("_", " ")
                text = answer.result.answer or f"none ({reason})"
                row.append(Text(text, style="green" if answer.right else "red"))
            table.add_row(*row)
        return table


def _costs(outcomes: Sequence[PolicyOutcome]) -> Table:
    table = Table(title="The same run under each policy", title_justify="left")
    table.add_column("")
    for outcome in outcomes:
        table.add_column(outcome.policy.value, justify="right")

    def row(name: str, values: list[str]) -> None:
        table.add_row(name, *values)

    row("answers right", [f"{o.right} of {len(o.answers)}" for o in outcomes])
    row("F1", [f"{o.f1:.2f}" for o in outcomes])
    row("prompt tokens", [f"{o.cost.prompt_tokens:,}" for o in outcomes])
    row("  computed", [f"{o.cost.computed_tokens:,}" for o in outcomes])
    row("  reused", [f"{o.cost.reused_tokens:,}" for o in outcomes])
    row("KV cache, base (MiB)", [f"{o.stats.kv_base_bytes / _MIB:.1f}" for o in outcomes])
    row("KV cache, LR (MiB)", [f"{o.stats.kv_lr_bytes / _MIB:.1f}" for o in outcomes])
    row("KV cache, peak (MiB)", [f"{o.stats.peak_kv_bytes / _MIB:.1f}" for o in outcomes])
    row("sum of times to first token (s)", [f"{o.cost.ttft_s:.2f}" for o in outcomes])
    row("generated tokens/s", [f"{o.cost.tokens_per_s:.1f}" for o in outcomes])
    return table


def _policy(outcome: PolicyOutcome) -> dict[str, Any]:
    cost, stats = outcome.cost, outcome.stats
    return {
        "policy": outcome.policy.value,
        "answers_right": outcome.right,
        "f1": outcome.f1,
        "prompt_tokens": cost.prompt_tokens,
        "computed_tokens": cost.computed_tokens,
        "reused_tokens": cost.reused_tokens,
        "generated_tokens": cost.generated_tokens,
        "tokens_chosen_otherwise": cost.other_tokens,
        "kv_base_bytes": stats.kv_base_bytes,
        "kv_lr_bytes": stats.kv_lr_bytes,
        "kv_peak_bytes": stats.peak_kv_bytes,
        "ttft_s": cost.ttft_s,
        "seconds": cost.seconds,
        "tokens_per_s": cost.tokens_per_s,
        "answers": [
            {
                "question": answer.question.question,
                "gold": answer.question.answer,
                "answer": answer.result.answer,
                "status": answer.result.status.value,
                "exact_match": answer.right,
                "f1": answer.f1,
                "opened_gold_documents": answer.found,
                "steps": answer.result.steps,
            }
            for answer in outcome.answers
        ],
    }
