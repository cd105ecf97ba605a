"""Tables for ``lragent inspect``."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lragent.sharing.compare import AdapterReport, AdapterSummary, PairSummary, ProposedGroup

_SHORT = 10


def _short(digest: str | None) -> str:
    return digest[:_SHORT] if digest else "-"


def _cells(*values: str) -> list[Text]:
    # Text and not str: names and paths may hold what rich would read as markup.
    return [Text(value) for value in values]


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _adapter_table(adapters: tuple[AdapterSummary, ...]) -> Table:
    table = Table(title="Adapters", title_justify="left")
    for column in ("adapter", "base model", "digest"):
        table.add_column(column, overflow="fold")
    for column in ("target", "layers", "rank", "scaling", "digest of A"):
        table.add_column(column)
    for summary in adapters:
        whose = (summary.name, summary.base_model or "not stated", _short(summary.digest))
        for projection, target in summary.targets.items():
            table.add_row(
                *_cells(
                    *whose,
                    projection,
                    str(target.layers),
                    _numbers(target.ranks),
                    _numbers(target.scalings),
                    _short(summary.a_digests[projection]),
                )
            )
            whose = ("", "", "")
        table.add_section()
    return table


def _pair_table(pairs: tuple[PairSummary, ...]) -> Table:
    table = Table(title="What a sharing group lets them share", title_justify="left")
    for column in ("pair", "base part", "LR slot", "why not"):
        table.add_column(column, overflow="fold")
    for pair in pairs:
        why = "the same weights" if pair.same_content else "; ".join(pair.reasons)
        table.add_row(
            *_cells(
                f"{pair.first} + {pair.second}",
                "yes" if pair.shares_base else "no",
                "yes" if pair.shares_slot else "no",
                why,
            )
        )
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
