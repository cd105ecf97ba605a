"""What the import of `lragent.agents` leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys


def test_the_import_starts_no_jax_and_sets_no_variable() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import lragent.agents; "
        "assert dict(os.environ) == before; assert not {'bm25s', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=True)
