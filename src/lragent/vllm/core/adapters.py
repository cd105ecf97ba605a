"""Adapters by content: every folder that a request names is copied, read and checked once.

vLLM's workers load an adapter whenever they need it, from its path, and know it by a small integer.
Here both stand for one content: the path is a private copy, so a folder that is overwritten later
changes nothing for requests in flight, and the integer is never given to other weights.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lragent.adapters.errors import AdapterError
from lragent.adapters.model import Adapter
from lragent.adapters.peft_config import CONFIG_FILE
from lragent.adapters.peft_folder import read_adapter
from lragent.files import expanded
from lragent.vllm.core.copies import CopyFolder

_READ = (CONFIG_FILE, "adapter_model.safetensors", "lragent.json")
_LOOKED_AT = (*_READ, "adapter_model.bin", "adapter_model.pt", "adapter_model.pth")


class AdapterNotFoundError(AdapterError):
    """There is no adapter at a path."""


@dataclass(frozen=True, eq=False)
class Content:
    """The weights of one adapter, without the tensors.

    Attributes:
        digest: identity, see `lragent.adapters.digests`.
        slot_digest: what its LR slot depends on; None when it needs no slot.
        is_alora, acting_tokens: where it begins to act, see `lragent.adapters.Adapter`.
        trained_for: name of the policy that it was trained for, None when it does not say.
        projections: names of the projections that it adapts.
        int_id: vLLM's number for it in this engine.
        folder: where workers load it from.
        notes: remarks of the checks.
    """

    digest: str
    slot_digest: str | None
    is_alora: bool
    acting_tokens: tuple[int, ...] | None
    trained_for: str | None
    projections: frozenset[str]
    int_id: int
    folder: str
    notes: tuple[str, ...] = ()


class AdapterStore:
    """Private copies of adapter folders, one for each content.

    Args:
        max_rank: largest rank that the engine takes.
        check: further checks of an adapter; raises `AdapterError`.
        copies: False leaves the files where they are (workers on other machines).
        alora: whether aLoRA adapters are served.
    """

    def __init__(
        self,
        max_rank: int,
        check: Callable[[Adapter], None],
        *,
        copies: bool = True,
        alora: bool = False,
    ):
        self._max_rank = max_rank
        self._check = check
        self._alora = alora
        self._copies = CopyFolder() if copies else None
        self._known: dict[str, tuple[object, Content]] = {}
        self._contents: dict[str, Content] = {}
        self._next_id = 1
        self._lock = threading.Lock()

    def read(self, path: str) -> Content:
        """The content that lies at ``path`` now: a folder, or a name on the hub.

        Raises:
            AdapterNotFoundError: there is none.
            AdapterError: it cannot be served; nothing is kept.
        """
        folder = _local(path)
        with self._lock:
            signature = _signature(folder)
            known = self._known.get(str(folder))
            if known is not None and known[0] == signature and known[1].digest in self._contents:
                return known[1]
            content = self._take(folder)
            self._known[str(folder)] = (signature, content)
            return content

    def drop(self, content: Content) -> None:
        """Forget a content that no request and no name uses, and delete its copy."""
        with self._lock:
            if self._contents.pop(content.digest, None) is not None and self._copies is not None:
                shutil.rmtree(content.folder, ignore_errors=True)

    def close(self) -> None:
        """Delete all copies."""
        if self._copies is not None:
            self._copies.close()

    def _take(self, folder: Path) -> Content:
        if self._copies is None:
            return self._register(read_adapter(folder, max_rank=self._max_rank), folder)
        try:
            copy = self._copies.new()
        except OSError as error:
            raise _no_copy(folder, error) from error
        try:
            if folder.is_dir():
                for name in _READ:
                    if (folder / name).is_file():
                        shutil.copyfile(folder / name, copy / name)
            whole = all((copy / name).is_file() for name in _READ[:2])
            # Without the two files the reader's messages are about the folder itself.
            adapter = read_adapter(copy if whole else folder, max_rank=self._max_rank)
            return self._register(adapter, folder, copy)
        except AdapterError as error:
            shutil.rmtree(copy, ignore_errors=True)
            raise AdapterError(str(error).replace(str(copy), str(folder))) from error
        except OSError as error:
            shutil.rmtree(copy, ignore_errors=True)
            raise _no_copy(folder, error) from error
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise

    def _register(self, adapter: Adapter, folder: Path, copy: Path | None = None) -> Content:
        known = self._contents.get(adapter.digest)
        if known is not None:
            if copy is not None:
                shutil.rmtree(copy, ignore_errors=True)
            return known
        if adapter.is_alora:
            self._make_plain(adapter, copy)
        self._check(adapter)
        content = Content(
            digest=adapter.digest,
            slot_digest=adapter.slot_digest,
            is_alora=adapter.is_alora,
            acting_tokens=adapter.acting_tokens,
            trained_for=adapter.trained_for,
            projections=frozenset(m.projection for m in adapter.modules.values()),
            int_id=self._next_id,
            folder=str(copy or folder),
            notes=adapter.notes,
        )
        self._next_id += 1
        self._contents[adapter.digest] = content
        return content

    def _make_plain(self, adapter: Adapter, copy: Path | None) -> None:
        """Take the invocation tokens out of a copy: vLLM would refuse it, and the plugin says from
        which token an adapter acts.

        Raises:
            AdapterError: this engine serves no aLoRA adapters.
        """
        if not self._alora:
            raise AdapterError(
                f"{adapter.path} is an aLoRA adapter (alora_invocation_tokens), for which vLLM has "
                'to be started with the option "alora": true'
            )
        if copy is None:
            raise AdapterError(
                f"{adapter.path} is an aLoRA adapter, which cannot be served over Ray: workers "
                "would have to read a changed copy of it"
            )
        path = copy / CONFIG_FILE
        config = json.loads(path.read_text(encoding="utf-8"))
        config["alora_invocation_tokens"] = None
        path.write_text(json.dumps(config), encoding="utf-8")


def _no_copy(folder: Path, error: OSError) -> AdapterError:
    return AdapterError(
        f"{folder} cannot be copied to the temporary folder: {error}; make room there, or set "
        "TMPDIR to another folder"
    )


def _local(path: str) -> Path:
    """The folder of a path, downloaded first if it names an adapter on the hub, as in vLLM."""
    from vllm.lora.utils import get_adapter_absolute_path  # pyright: ignore[reportMissingImports]

    folder = expanded(get_adapter_absolute_path(path)).absolute()
    if not folder.exists():
        raise AdapterNotFoundError(
            f"no adapter at {path}; give a local folder or a name on the Hub"
        )
    return folder


def _signature(folder: Path) -> object:
    """Changes whenever a file of the folder does."""
    found = []
    for name in _LOOKED_AT:
        try:
            stat = (folder / name).stat()
        except OSError:
            continue
        found.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(found)
