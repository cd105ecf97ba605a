"""Puts a vLLM together for CPUs: its Python files, and the extension modules of another build.

Not every vLLM has a build for CPUs. Its Python files run, as far as the plugin's checks and tests
need them, on the extension modules of the build that this interpreter has. The result is a folder
to put on ``PYTHONPATH``:

    python fetch.py VERSION FOLDER

It does nothing when the folder is there. Pip downloads the wheel for GPUs (some 340 MB), of which
the Python files are kept (60 MB).
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

GLIBC = ("2_28", "2_31", "2_34", "2_35")


def download(version: str, folder: Path) -> Path:
    """The wheel that GPUs use, for any Python; its Python files are the same everywhere."""
    tags = [f"manylinux_{glibc}_{platform.machine()}" for glibc in GLIBC]
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet",
        "--no-deps", "--only-binary=:all:", "--implementation=cp", "--python-version=3.12",
        *(f"--platform={tag}" for tag in tags), f"--dest={folder}", f"vllm=={version}",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    [wheel] = folder.glob("vllm-*.whl")
    return wheel


def put_together(version: str, wheel: Path, folder: Path) -> None:
    """Unpack the wheel's Python files and add the modules of this interpreter's vLLM."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("vllm/") and name.endswith((".py", ".json")):
                archive.extract(name, folder)
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        raise SystemExit("this interpreter has no vLLM; run make test-vllm, which makes one")
    for module in Path(found.origin).parent.glob("*.so"):
        shutil.copy2(module, folder / "vllm")
    # vLLM takes a package of this version for a build for CPUs.
    metadata = folder / f"vllm-{version}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def main(version: str, target: Path) -> None:
    """Make the folder, whole or not at all."""
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch, "made")
        put_together(version, download(version, Path(scratch)), made)
        made.rename(target)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
