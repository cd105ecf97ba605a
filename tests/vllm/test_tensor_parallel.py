"""Two ranks give the tokens of one: K, V and B are split by heads, the LR slots are on both.

The adapters have LoRA on all linear layers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.engine.models import prompt_of
from tests.vllm.serving import Ask, Embedded, folders, search_path

CODE = """
import json, sys
from pathlib import Path
from tests.vllm.serving import Ask, Served, folders, sharing

def main():
    root, policy = Path(sys.argv[1]), sys.argv[2]
    adapters = folders(root, "keys")
    option = sharing(policy, adapters, key_lora=True)
    with Served(root / "llama", adapters, option, tensor_parallel_size=2,
                disable_custom_all_reduce=True) as served:
        found = []
        for batch in json.loads(sys.argv[3]):
            answers = served.ask(*[Ask(name, prompt) for name, prompt in batch])
            found.append([[list(a.tokens), a.cached] for a in answers])
        print("FOUND", json.dumps(found), flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("policy", ["base+lr", "neutral"])
def test_two_ranks(policy: str, root: Path, tmp_path: Path):
    context = prompt_of(150)
    batches: list[list[Ask]] = [
        [Ask("plan", context)],
        [Ask("act", [*context, 5, 6, 7]), Ask("reflect", [*context, 8]), Ask(None, context)],
    ]
    script = tmp_path / "two_ranks.py"
    script.write_text(CODE)
    done = subprocess.run(
        [sys.executable, str(script), str(root), policy,
         json.dumps([[(a.name, a.prompt) for a in batch] for batch in batches])],
        capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "PYTHONPATH": search_path(),
             "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    found = json.loads(line.removeprefix("FOUND "))
    with Embedded(folders(root, "keys"), policy) as embedded:
        expected = [[list(a.tokens) for a in embedded.ask(*batch)] for batch in batches]
    assert [[tokens for tokens, _ in batch] for batch in found] == expected
    assert [cached for _, cached in found[1]] == [144, 144, 144 if policy == "neutral" else 0]
