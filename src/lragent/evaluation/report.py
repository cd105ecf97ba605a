"""One HTML file with tables and figures, which opens without a network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.meter import BASE_MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lragent.evaluation.run import Evaluation
    from lragent.evaluation.summary import Cell


def require_report_packages() -> None:
    """Raise an EvaluationError where the optional packages of the report are missing."""
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise EvaluationError(
            f"the report needs {' and '.join(missing)}; run: pip install 'lragent[eval]'"
        )


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the report of an evaluation.

    Raises:
        EvaluationError: matplotlib or jinja2 is missing.
        OSError: the file cannot be written.
    """
    require_report_packages()
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    from lragent.evaluation.figures import curve_figure, role_figure

    limit = evaluation.settings.limit.nll_ratio
    figures = {"roles": role_figure(_shared(evaluation.readers), limit)}
    if evaluation.lengths:
        cells = _shared(evaluation.lengths)
        figures["lengths"] = curve_figure(cells, "context", "tokens of context")
    if evaluation.hand_overs:
        cells = _shared(evaluation.hand_overs)
        figures["hand_overs"] = curve_figure(cells, "hand_overs", "hand-overs")
    environment = Environment(loader=PackageLoader("lragent.evaluation", "."), autoescape=True)
    page = environment.get_template("report.html").render(
        e=evaluation, figures={name: Markup(svg) for name, svg in figures.items()}
    )
    path.write_text(page, encoding="utf-8")


def _shared(cells: Sequence[Cell]) -> list[Cell]:
    """Those of the policies that share; the others are what they are compared with."""
    return [c for c in cells if c.policy not in ("isolated", BASE_MODEL)]
