"""docs/promises.md names tests that exist, and every file of these proofs."""

from __future__ import annotations

import ast
import re

from tests.proof.description import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
NAMED = re.findall(r"^  `(tests/\S+\.py)::(\w+)`$", PAGE, re.MULTILINE)


def test_every_named_test_exists():
    for file, name in NAMED:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"


def test_every_promise_names_its_test():
    assert len(re.findall(r"^- ", PAGE, re.MULTILINE)) == len(NAMED)


def test_every_proof_is_named():
    proofs = {f"tests/proof/{path.name}" for path in (ROOT / "tests/proof").glob("test_*.py")}
    assert proofs - {file for file, _ in NAMED} == {"tests/proof/test_promises.py"}
