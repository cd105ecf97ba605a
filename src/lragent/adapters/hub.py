"""Adapters by their name on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from lragent.adapters.errors import AdapterError
from lragent.adapters.peft_config import CONFIG_FILE
from lragent.adapters.sidecar import SIDECAR_FILE
from lragent.adapters.tensors import WEIGHTS_FILE
from lragent.files import expanded

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def adapter_folder(name_or_path: str | Path) -> Path:
    """The local folder of an adapter; a hub name, `owner/name`, is fetched when no folder is so
    called. One that is in the hub's local cache is used as it lies there, without asking the
    network.

    Raises:
        AdapterError: the hub has no such adapter, or cannot be reached.
    """
    folder = expanded(name_or_path)
    if folder.exists() or isinstance(name_or_path, Path) or not _HUB_NAME.fullmatch(name_or_path):
        return folder
    from huggingface_hub import errors, snapshot_download, try_to_load_from_cache

    cached = [try_to_load_from_cache(name_or_path, file) for file in (CONFIG_FILE, WEIGHTS_FILE)]
    if all(isinstance(file, str) for file in cached):
        return Path(str(cached[0])).parent
    # The base class of the hub's HTTP errors belongs to the HTTP library that the hub uses.
    http_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        wanted = [CONFIG_FILE, WEIGHTS_FILE, SIDECAR_FILE]
        return Path(snapshot_download(name_or_path, allow_patterns=wanted))
    except (OSError, ValueError, http_error) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise AdapterError(
            f"there is no adapter folder {folder}, and no adapter of that name came from the "
            f"Hugging Face hub: {lines[0]}"
        ) from error
