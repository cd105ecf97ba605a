"""vLLM's own tests of its scheduler and KV cache, on stock and with the plugin's books on.

    python -m tests.vllm.upstream.run VERSION FOLDER

The tests come from the source archive of that version, which pip downloads into FOLDER (45 MB) and
which is kept there. A table says what passes on stock and what becomes of it with the books. The
exit code is 1 where a test passes on stock and fails with the books; what the plugin refuses is
left out by name, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.engine.tokenizer import byte_tokenizer

HERE = Path(__file__).parent
TESTS = "tests/v1/core"
REFUSED = "refused: "
MODELS = ("facebook/opt-125m", "facebook/opt-350m", "Qwen/Qwen3-0.6B")
"""Models whose configuration the tests read. Without a hub, and for a family that is served, a tiny
Llama's stands for each."""
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50272, "max_position_embeddings": 2048,
    "bos_token_id": 2, "eos_token_id": 2, "torch_dtype": "float16",
}  # fmt: skip
BUILD_NEEDS = ("setuptools-rust", "setuptools-scm", "semantic_version", "vcs_versioning")
TEST_NEEDS = ("tblib",)


class Outcome(NamedTuple):
    """What became of a test: ``passed``, ``failed`` or ``skipped``, and why."""

    what: str
    why: str


def fetch(version: str, folder: Path) -> None:
    """Put the archive's tests into a folder, whole or not at all.

    Pip asks a source archive for its metadata before it keeps it, and so runs its ``setup.py``.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        scratch, made = Path(name), Path(name, "made")
        needs = [*pip, "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*needs, scratch / "build", *BUILD_NEEDS], check=True)
        subprocess.run(
            [*pip, "download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary=vllm",
             f"--dest={scratch}", f"vllm=={version}"],
            env={**os.environ, "PYTHONPATH": str(scratch / "build"),
                 "VLLM_TARGET_DEVICE": "empty", "VLLM_VERSION_OVERRIDE": version},
            check=True,
        )  # fmt: skip
        with tarfile.open(scratch / f"vllm-{version}.tar.gz") as archive:
            root = f"vllm-{version}/"
            parts = (f"{root}tests/", f"{root}pyproject.toml")
            wanted = [member for member in archive if member.name.startswith(parts)]
            archive.extractall(scratch, wanted, filter="data")
        (scratch / root).rename(made)
        subprocess.run([*needs, made / "needs", *TEST_NEEDS], check=True)
        made.rename(folder)


def make_hub(folder: Path) -> Path:
    """A cache of the hub, as its client lays it out, with the configuration above."""
    for model in MODELS:
        here = folder / f"models--{model.replace('/', '--')}"
        (here / "refs").mkdir(parents=True)
        (here / "snapshots" / "0").mkdir(parents=True)
        (here / "refs" / "main").write_text("0")
        (here / "snapshots" / "0" / "config.json").write_text(json.dumps(CONFIG))
        byte_tokenizer().save_pretrained(here / "snapshots" / "0")
    return folder


def run(folder: Path, scratch: Path, books: bool, more: list[str]) -> dict[str, Outcome]:
    """Outcomes by test."""
    paths = [folder / "needs", HERE, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "HF_HUB_CACHE": str(scratch / "hub"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_PLUGINS": "none",
    }
    report = scratch / f"{books}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider",
               "--tb=line", f"--junitxml={report}", "-p", "books", *(["--books"] if books else []),
               *(more or [TESTS])]  # fmt: skip
    subprocess.run(command, cwd=folder, env=environment, check=False, stdout=sys.stderr)
    return read(report)


def read(report: Path) -> dict[str, Outcome]:
    """Outcomes by test in a JUnit file."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name')}".removeprefix("tests.v1.core.")
        kinds = {child.tag: child.get("message") or "" for child in case}
        bad = kinds.get("failure", kinds.get("error"))
        if bad is not None:
            found[name] = Outcome("failed", bad.partition("\n")[0])
        elif "skipped" in kinds:
            found[name] = Outcome("skipped", kinds["skipped"].removeprefix("Skipped: "))
        else:
            found[name] = Outcome("passed", "")
    return found


def broken(stock: Mapping[str, Outcome], books: Mapping[str, Outcome]) -> dict[str, str]:
    """Tests that pass on stock and neither pass nor are refused with the books, and why."""
    gone = Outcome("failed", "not run")
    after = {name: books.get(name, gone) for name, o in stock.items() if o.what == "passed"}
    return {
        name: outcome.why for name, outcome in after.items()
        if outcome.what != "passed" and not outcome.why.startswith(REFUSED)
    }  # fmt: skip


def table(stock: Mapping[str, Outcome], books: Mapping[str, Outcome]) -> str:
    """Markdown: how many tests, what became of those that pass on stock, and why."""
    passed = {name for name, outcome in stock.items() if outcome.what == "passed"}
    bad = broken(stock, books)
    refused = Counter(
        books[name].why.removeprefix(REFUSED) for name in passed - bad.keys()
        if books[name].what == "skipped"
    )  # fmt: skip
    rows = [
        ("run on stock", len(stock)),
        ("pass on stock", len(passed)),
        ("of these pass with the books on", len(passed) - len(bad) - refused.total()),
        *((f"refused: {why}", count) for why, count in refused.most_common()),
        ("fail with the books on", len(bad)),
    ]
    lines = ["| tests | number |", "| --- | --- |", *(f"| {what} | {n:,} |" for what, n in rows)]
    return "\n".join([*lines, *(f"{name}: {why}" for name, why in bad.items())])


def main() -> None:
    """Fetch, run twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    parser.add_argument("folder", type=Path)
    parser.add_argument("tests", nargs="*", help=f"instead of {TESTS}")
    options = parser.parse_args()
    fetch(options.version, options.folder)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make_hub(scratch / "hub")
        stock, books = (run(options.folder, scratch, on, options.tests) for on in (False, True))
    print(table(stock, books))
    sys.exit(1 if not stock or broken(stock, books) else 0)


if __name__ == "__main__":
    main()
