from __future__ import annotations

import subprocess
import sys

import pytest

import lragent.adapters
from lragent.adapters import near_misses


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("plam", ["plan", "act"], "; did you mean 'plan'?"),
        ("PLAN", ["plan", "act"], "; did you mean 'plan'?"),
        ("xyz", ["plan", "act"], "; known: 'act', 'plan'"),
        ("xyz", [], "; none is known"),
        ("zzz", [f"adapter-{i}" for i in range(9)], "'adapter-7' and 1 more"),
    ],
)
def test_near_misses(name: str, known: list[str], expected: str) -> None:
    assert near_misses(name, known).endswith(expected)


def test_public_names_resolve() -> None:
    for name in lragent.adapters.__all__:
        assert getattr(lragent.adapters, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lragent.adapters.no_such_name


def test_the_package_and_its_names_load_without_torch() -> None:
    code = (
        "import sys; from lragent.adapters import near_misses, AdapterError; "
        "sys.exit('torch' in sys.modules or 'peft' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
