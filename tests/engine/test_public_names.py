"""What `import lragent` offers, and how little it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lragent


def test_every_public_name_is_there():
    for name in lragent.__all__:
        assert getattr(lragent, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Engin'"):
        _ = lragent.Engin  # pyright: ignore[reportAttributeAccessIssue]


def test_the_import_alone_loads_nothing_heavy():
    code = "import lragent, sys; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "pydantic", "numpy"} & set(out.stdout.split())
