from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import tiny_model
from tests.engine.tokenizer import byte_tokenizer

from lragent.agents import Role, Status, WorkflowOptions
from lragent.agents.prompts import Turn
from lragent.evaluation import EvaluationError
from lragent.evaluation.tasks import Agents, Question, Task, answer_questions
from lragent.sharing import Policy

OPTIONS = WorkflowOptions(max_steps=2, max_tokens=dict.fromkeys(Turn, 3), system_prompt="Act.")
TASK = Task(
    name="towns",
    questions=tuple(
        Question(id=f"q{i}", question=f"Where is {i}?", answers=("Oss",), pages=(("Alba", "Oss."),))
        for i in range(6)
    ),
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "Llama-Bytes"
    model = tiny_model()
    model.resize_token_embeddings(260)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def agents(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Agents:
    root, model = tmp_path_factory.mktemp("roles"), tiny_model()
    model.name_or_path = str(model_folder)
    folders = {
        role.value: make_adapter(root / role.value, model, seed=i) for i, role in enumerate(Role)
    }
    engine = {"kv_bytes": 1 << 24}
    return Agents(str(model_folder), folders, Policy.BASE_LR, 4, OPTIONS, engine)


def test_answers_are_kept_and_continued(agents: Agents, tmp_path: Path):
    journal, seen = tmp_path / "new" / "answers.jsonl", []
    cancel = threading.Event()

    def stop_early(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            cancel.set()

    some = answer_questions(TASK, agents, journal, stop_early, cancel)
    assert seen[0] == (0, 6)
    assert 2 <= len(some) < 6
    before = journal.read_text()
    found = answer_questions(TASK, agents, journal)
    assert journal.read_text().startswith(before)
    assert [a.key for a in found] == [q.key for q in TASK.questions]
    assert all(a.calls and a.generated_tokens and a.reused_tokens for a in found)
    assert all(a.exact is False and a.transcript for a in found)
    assert all(a.answer is None or a.status is Status.ANSWERED for a in found)
    assert all(a.tool_errors > 0 for a in found)  # random weights name no tool
    fresh = answer_questions(TASK, agents, tmp_path / "fresh.jsonl")
    assert [a.transcript for a in fresh] == [a.transcript for a in found]


def test_a_journal_belongs_to_its_arm(agents: Agents, tmp_path: Path):
    few = TASK.model_copy(update={"questions": TASK.questions[:1]})
    answer_questions(few, agents, tmp_path / "a.jsonl")
    bare = Agents(agents.model, at_once=4, options=OPTIONS, engine=agents.engine)
    with pytest.raises(EvaluationError, match="adapters, policy differ"):
        answer_questions(few, bare, tmp_path / "a.jsonl")
    assert answer_questions(few, bare, tmp_path / "b.jsonl")[0].calls


def test_another_question_under_the_same_id_is_asked(agents: Agents, tmp_path: Path):
    """As in the other version of a data set."""
    before = TASK.questions[0]
    for asked in (before, before.model_copy(update={"pages": (("Alba", "Ulm."),)}), before):
        task = TASK.model_copy(update={"questions": (asked,)})
        [answer] = answer_questions(task, agents, tmp_path / "a.jsonl")
        assert answer.key == asked.key
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1 + 2


def test_a_journal_belongs_to_its_weights(model_folder: Path, tmp_path: Path):
    """As when a base model is trained again into the same folder."""
    few = TASK.model_copy(update={"questions": TASK.questions[:1]})
    folder = Path(shutil.copytree(model_folder, tmp_path / "Llama"))
    bare = Agents(str(folder), options=OPTIONS, engine={"kv_bytes": 1 << 24})
    answer_questions(few, bare, tmp_path / "a.jsonl")
    other = tiny_model(seed=5)
    other.resize_token_embeddings(260)
    other.save_pretrained(folder)
    with pytest.raises(EvaluationError, match="weights differ"):
        answer_questions(few, bare, tmp_path / "a.jsonl")


def test_sampling_is_refused(agents: Agents, tmp_path: Path):
    warm = Agents(agents.model, options=WorkflowOptions(temperature=1.0))
    with pytest.raises(EvaluationError, match="temperature 0"):
        answer_questions(TASK, warm, tmp_path / "a.jsonl")
