"""Tables for ``lragent inspect``."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lragent.sharing.compare import (
    AdapterReport,
    AdapterSummary,
    PairSummary,
    ProposedGroup,
    TargetSummary,
)

_SHORT = 10
_NAMED = 6  # pairs of one kind; of more, only the number


def _short(digest: str | None) -> str:
    return digest[:_SHORT] if digest else "-"


def _cells(*values: str) -> list[Text]:
    # Text and not str: names and paths may hold what rich would read as markup.
    return [Text(value) for value in values]


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _adapter_table(adapters: tuple[AdapterSummary, ...]) -> Table:
    bases = {summary.base_model or "not stated" for summary in adapters}
    title = f"Adapters of {next(iter(bases))}" if len(bases) == 1 else "Adapters"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("adapter", overflow="fold")
    if len(bases) > 1:
        table.add_column("base model", overflow="fold")
    table.add_column("targets", overflow="fold")
    for column in ("layers", "rank", "scaling"):
        table.add_column(column)
    for column in ("digest", "A, cached"):
        table.add_column(column, no_wrap=True)
    for summary in adapters:
        base = [summary.base_model or "not stated"] if len(bases) > 1 else []
        whose = [summary.name, *base]
        digests = [_short(summary.digest), _short(summary.slot_digest)]
        for target, projections in _alike(summary).items():
            sizes = (str(target.layers), _numbers(target.ranks), _numbers(target.scalings))
            table.add_row(*_cells(*whose, ", ".join(projections), *sizes, *digests))
            whose, digests = [""] * len(whose), ["", ""]
    return table


def _alike(summary: AdapterSummary) -> dict[TargetSummary, list[str]]:
    """Projections by what LoRA on them is like."""
    found: dict[TargetSummary, list[str]] = {}
    for projection, target in summary.targets.items():
        found.setdefault(target, []).append(projection)
    return found


def _pair_table(pairs: tuple[PairSummary, ...]) -> Table:
    alike: dict[tuple[bool, bool, str], list[str]] = {}
    for pair in pairs:
        why = "the same weights" if pair.same_content else "; ".join(pair.reasons)
        found = alike.setdefault((pair.shares_base, pair.shares_slot, why), [])
        found.append(f"{pair.first} + {pair.second}")
    table = Table(title="What a sharing group lets them share", title_justify="left")
    table.add_column("pairs", overflow="fold")
    for column in ("base part", "LR slot"):
        table.add_column(column)
    table.add_column("why not", overflow="fold")
    for (base, slot, why), names in alike.items():
        which = "\n".join(names) if len(names) <= _NAMED else f"{len(names)} of {len(pairs)}"
        table.add_row(*_cells(which, "yes" if base else "no", "yes" if slot else "no", why))
    return table


def _proposal(group: ProposedGroup) -> Text:
    sizes = ", ".join(f"{policy} {ratio:.2f}" for policy, ratio in group.relative_bytes.items())
    slots = "1 LR slot" if group.slots == 1 else f"{group.slots} LR slots"
    return Text(
        f"Possible group: {', '.join(group.members)} on {group.base_model}; {slots} under base+lr "
        "and neutral\n"
        f"Cache bytes against isolated: {sizes}"
    )


def render_report(report: AdapterReport) -> Group:
    """The report as rich tables with the notes of each adapter below."""
    parts: list[RenderableType] = [_adapter_table(report.adapters)]
    parts += [
        Text(f"{summary.name}: {note}") for summary in report.adapters for note in summary.notes
    ]
    if report.pairs:
        parts.append(_pair_table(report.pairs))
    parts += [_proposal(group) for group in report.groups]
    return Group(*parts)
