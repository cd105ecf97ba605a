"""What vLLM's LoRA kernels know of a step, worked out on the host.

vLLM sorts a step's tokens by adapter on the device and waits for the outcome, whenever the tokens
or adapters of a batch are others than before: a step with new prompts is begun only when the one
before it has ended. The adapter of each token is known on the host. Here the tokens are sorted
there, and two copies, which nothing waits for, bring everything to where the kernels read it.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lragent.vllm.errors import PluginError
from lragent.vllm.transfer import send

_NEEDED = (
    "token_mapping_meta", "prompt_mapping_meta", "indices_len", "is_prefill",
    "_token_lora_indices", "_sampler_indices", "_sampler_indices_padded", "_embeddings_indices",
)  # fmt: skip
"""What has to be there of ``PunicaWrapperGPU``."""


class HostMetadata:
    """Takes the place of ``update_metadata`` of vLLM's wrapper of LoRA kernels for GPUs.

    Args:
        punica: the wrapper.
        follow: takes the adapters of each batch, and returns what goes to ``lists``.
        lists: the lists of adapters by kind of module, see `touched.TouchedModules`.

    Raises:
        PluginError: the wrapper is another than in the versions of vLLM that are served.
    """

    def __init__(self, punica: Any, follow: Callable[[np.ndarray], np.ndarray], lists: Tensor):
        lost = [name for name in _NEEDED if not hasattr(punica, name)]
        if lost:
            raise PluginError(
                f"vLLM's {type(punica).__name__} has no {', '.join(lost)}; install a vLLM that "
                "lragent knows, or leave the option out"
            )
        self._punica = punica
        self._follow = follow
        self._lists = lists

    def update(
        self,
        mapping: Any,
        lora_index_to_id: Sequence[int | None],
        max_loras: int,
        vocab_size: int,
        **_: Any,
    ) -> None:
        """As vLLM's own.

        Raises:
            KeyError: a token's adapter is not on the device.
        """
        punica = self._punica
        tokens = places_of(mapping.index_mapping, lora_index_to_id)
        prompts = places_of(mapping.prompt_mapping, lora_index_to_id)
        punica.is_prefill = mapping.is_prefill
        count, asked = len(tokens), len(prompts)
        punica.indices_len[:] = [count, asked, asked, count]
        padded = np.where(prompts < 0, max_loras - 1, prompts) * asked + np.arange(asked)
        rows = np.where(tokens < 0, 0, tokens) * vocab_size
        send(
            [
                punica._token_lora_indices[:count],
                punica._sampler_indices[:asked],
                punica._sampler_indices_padded[:asked],
                punica._embeddings_indices[:count],
            ],
            [tokens, prompts, padded, rows],
        )
        targets, values = _kernel_inputs(punica.token_mapping_meta, tokens)
        more_targets, more_values = _kernel_inputs(punica.prompt_mapping_meta, prompts)
        lists = self._follow(values[0])
        send([*targets, *more_targets, self._lists], [*values, *more_values, lists])


def prepare_on_host(punica: Any, follow: Callable[[np.ndarray], np.ndarray], lists: Tensor) -> None:
    """Put `HostMetadata` into a wrapper of LoRA kernels for GPUs; once, and not on a CPU."""
    if hasattr(punica, "token_mapping_meta") and "update_metadata" not in vars(punica):
        punica.update_metadata = HostMetadata(punica, follow, lists).update


def places_of(ids: Sequence[int], lora_index_to_id: Sequence[int | None]) -> np.ndarray:
    """Place on the device of each adapter id ``[n]`` int64, -1 for ids up to 0 (no adapter).

    Raises:
        KeyError: an id has no place.
    """
    wanted = np.fromiter(ids, np.int64, len(ids))
    known = np.array([0 if i is None else i for i in lora_index_to_id], dtype=np.int64)
    order = np.argsort(known, kind="stable")
    at = np.searchsorted(known, wanted, sorter=order)
    places = order[np.minimum(at, len(known) - 1)]
    lost = (wanted > 0) & (known[places] != wanted)
    if lost.any():
        raise KeyError(f"no adapter {wanted[lost][0]} on the device")
    return np.where(wanted > 0, places, -1)


def _kernel_inputs(meta: Any, places: np.ndarray) -> tuple[list[Tensor], list[np.ndarray]]:
    """Tensors of a ``LoRAKernelMeta`` and what goes there, the places that occur first.

    Its numbers for the host are set.
    """
    targets = [meta.active_lora_ids, meta.num_tokens_per_lora, meta.lora_token_start_loc]
    adapters, counts, starts = values = [np.zeros(len(t), dtype=np.int64) for t in targets]
    adapters[:] = -1
    none = bool((places == -1).all())
    active = 0
    if not none:
        found, tokens = np.unique(places, return_counts=True)
        active = len(found)
        adapters[:active], counts[:active] = found, tokens
        starts[1 : active + 1] = np.cumsum(tokens)
        targets += [
            meta.token_lora_mapping[: len(places)],
            meta.token_indices_sorted_by_lora_ids[: len(places)],
        ]
        values += [places, np.argsort(places, kind="stable")]
        captured = meta.captured_lora_counts
        larger = bisect.bisect_left(captured, active)
        active = captured[larger] if larger < len(captured) else active
    meta.no_lora_flag_cpu[0] = none
    meta.num_active_loras_cpu[0] = active
    return targets, values
