"""A load format for vLLM: seeded random weights of ordinary size.

vLLM's own ``dummy`` draws all weights, norms too, from ±0.001: activations vanish, every prompt
gives the same tokens, and a comparison of tokens shows nothing. Here tokens depend on the prompt
and on the adapter. Speed is the same.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch

LOAD_FORMAT = "seeded_dummy"


def register() -> None:
    """Make the load format known to vLLM in this process."""
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    @register_model_loader(LOAD_FORMAT)
    class SeededDummyLoader(DummyModelLoader):
        """Fills every parameter from its name's place in the model, the same in each process."""

        def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
            """Fill the model."""
            for seed, (name, parameter) in enumerate(model.named_parameters()):
                fill(name, parameter.data, seed)


def fill(name: str, values: torch.Tensor, seed: int) -> None:
    """Overwrite one parameter: norms 1, biases 0, embeddings N(0, 1), matrices N(0, 1.7 / d_in)."""
    if values.dim() < 2:
        values.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    generator = torch.Generator(device=values.device).manual_seed(seed)
    std = 1.0 if "embed_tokens" in name else (1.7 / values.shape[-1]) ** 0.5
    values.normal_(0.0, std, generator=generator)
