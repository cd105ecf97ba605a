"""Questions with known answers, answered by the agents themselves under each policy."""

from lragent.evaluation.tasks.answers import Agents, Answer, answer_questions
from lragent.evaluation.tasks.questions import Question, Task
from lragent.evaluation.tasks.sources import TASKS, read_task
from lragent.evaluation.tasks.summary import ArmScores, TaskResult, compare

__all__ = [
    "TASKS",
    "Agents",
    "Answer",
    "ArmScores",
    "Question",
    "Task",
    "TaskResult",
    "answer_questions",
    "compare",
    "read_task",
]
