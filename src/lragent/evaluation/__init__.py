"""What sharing does to answers: a teacher-forced meter, a verdict for a group, and a report."""

from lragent.evaluation.config import EvalConfig, Limit
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.inputs import Inputs, bundled_inputs, read_inputs
from lragent.evaluation.report import write_report
from lragent.evaluation.run import Evaluation, evaluate
from lragent.evaluation.verdict import Verdict

__all__ = [
    "EvalConfig",
    "Evaluation",
    "EvaluationError",
    "Inputs",
    "Limit",
    "Verdict",
    "bundled_inputs",
    "evaluate",
    "read_inputs",
    "write_report",
]
