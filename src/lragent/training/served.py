"""A PEFT model's forward pass as serving on a shared cache computes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lragent.training.context import Context
from lragent.training.errors import TrainingError
from lragent.training.turns import Turns, columns_between

if TYPE_CHECKING:
    from peft import PeftModel

_KEYWORD = "shared_context"


class ServedForward:
    """Has a PEFT model read each context by one reader, and act on it by the active adapter.

    The decoder's forward pass becomes two. The first computes the contexts without gradients, as
    nothing in it depends on what is trained. The second computes the turns by the active adapter,
    whose queries see the contexts as `Context` says. Head, loss, and whatever a trainer does with
    them stay the model's own: it gets the last hidden states of both, each in its place.

    Attributes:
        turns: of the next forward pass, which uses them up; without them it fails.
        isolated: whether the next passes are the model's ordinary ones instead, in which the
            active adapter computes everything.
        reader: adapter that computes the contexts; None for the bare base model.
        own_terms: whether a turn puts the active adapter's terms on the context's keys and values
            (`neutral` and `base+lr`), or takes them as the reader left them (`full`).
    """

    def __init__(self, model: PeftModel) -> None:
        """Install the forward pass on `model`; it stays as long as the model."""
        self.turns: Turns | None = None
        self.isolated = False
        self.reader: str | None = None
        self.own_terms = True
        self._model = model
        decoder = cast(Any, model.get_base_model()).get_decoder()
        self._config = decoder.config
        self._ordinary = decoder.forward
        self._attentions: list[nn.Module] = [layer.self_attn for layer in decoder.layers]
        # transformers renamed it in 5.24.
        named = inspect.signature(cast(Any, self._attentions[0]).forward).parameters
        self._cache_keyword = "cache" if "cache" in named else "past_key_values"
        for layer in decoder.layers:
            # Where transformers lets a layer that only reads the cache keep it under gradient
            # checkpointing, say so; elsewhere `_hand_over` gives it back.
            layer._can_checkpoint_with_cache = True
            layer.self_attn.register_forward_pre_hook(self._hand_over, with_kwargs=True)
        decoder.forward = self._forward

    def _forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if self.isolated:
            return self._ordinary(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                **kwargs,
            )
        turns, self.turns = self.turns, None
        self._check(input_ids, attention_mask, position_ids, turns, kwargs)
        ids, turns = cast(Tensor, input_ids), cast(Turns, turns)
        kwargs.pop(self._cache_keyword, None)
        kwargs["use_cache"] = False
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if position_ids is not None:
            positions = position_ids.expand_as(ids)
        before, in_context = columns_between(turns.first, turns.start)
        own, in_turn = columns_between(turns.start, turns.end)
        read = None
        if before.shape[1]:
            context = Context(self._attentions, self.own_terms)
            kwargs |= {self._cache_keyword: context, _KEYWORD: context}
            with torch.no_grad(), self._reading():
                # All padding is on the right now, where no token of the context sees it.
                read = self._ordinary(
                    input_ids=ids.gather(1, before),
                    position_ids=positions.gather(1, before),
                    **kwargs,
                ).last_hidden_state
            context.read = True
        output = self._ordinary(
            input_ids=ids.gather(1, own),
            attention_mask=torch.cat([in_context, in_turn], dim=1).long(),
            position_ids=positions.gather(1, own),
            **kwargs,
        )
        acted = output.last_hidden_state
        whole = acted.new_zeros(*ids.shape, acted.shape[-1])
        if read is not None:
            _place(whole, read, before, in_context)
        _place(whole, acted, own, in_turn)
        return type(output)(last_hidden_state=whole)

    def _hand_over(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Give an attention layer the context of its own forward pass, also when it is repeated."""
        context = kwargs.pop(_KEYWORD, None)
        if context is not None:
            kwargs[self._cache_keyword] = context
            if not context.read:
                x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
                context.note(x, kwargs["position_embeddings"])
        return args, kwargs

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Compute by the reader, without dropout as serving does; afterwards all is as before.

        In every step, so it walks over the model once, where PEFT's and torch's own switches for a
        whole model walk over it seven times.
        """
        modules = list(self._model.modules())
        # Assigned to the module itself, a flag takes 30 times as long.
        training = [vars(module) for module in modules if module.training]
        layers = [module for module in modules if isinstance(module, BaseTunerLayer)]
        parameters = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
        active = self._model.active_adapters
        for flags in training:
            flags["training"] = False
        for layer in layers:
            if self.reader is None:
                layer.enable_adapters(False)
            else:
                layer.set_adapter(self.reader)
        try:
            yield
        finally:
            for layer in layers:
                if self.reader is None:
                    layer.enable_adapters(True)
                else:
                    layer.set_adapter(active)
            for parameter, trainable in parameters:
                parameter.requires_grad_(trainable)
            for flags in training:
                flags["training"] = True

    def _check(
        self,
        ids: Tensor | None,
        mask: Tensor | None,
        positions: Tensor | None,
        turns: Turns | None,
        kwargs: dict[str, Any],
    ) -> None:
        if turns is None:
            raise TrainingError(
                "this model trains for a shared cache, so each forward pass needs labels (-100 up "
                "to the output): they say where the context ends. Label smoothing and loss "
                "functions of your own take them away. Generate with lragent.Engine."
            )
        if ids is None:
            raise TrainingError("training for a shared cache needs input_ids, not embeddings")
        packed = kwargs.get("cu_seq_lens_q") is not None
        if positions is not None and positions.dim() == 2 and not packed:
            step = positions[:, 1:] - positions[:, :-1]
            inside = torch.ones_like(step, dtype=torch.bool)
            if mask is not None:
                inside = mask[:, 1:].bool() & mask[:, :-1].bool()
            packed = bool(((step != 1) & inside).any())
        if packed:
            raise TrainingError(
                "the batch holds packed samples, which all lie in one row: switch packing and "
                "padding-free batches off"
            )
        wanted = [
            name for name in ("output_hidden_states", "output_attentions") if kwargs.get(name)
        ]
        if wanted:
            raise TrainingError(f"{wanted[0]} is not available from a model trained for sharing")
        window = _sliding_window(self._config)
        if window is not None and ids.shape[1] > window:
            raise TrainingError(
                f"samples of up to {ids.shape[1]} tokens exceed the model's sliding window of "
                f"{window}: leave longer ones out"
            )


def _sliding_window(config: Any) -> int | None:
    """Tokens that some layer's attention is limited to, or None where all see everything."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    return getattr(config, "sliding_window", None)


def _place(whole: Tensor, part: Tensor, columns: Tensor, real: Tensor) -> None:
    """Put the real hidden states of `part` where they belong in their rows of `whole`."""
    row = torch.arange(len(columns), device=columns.device)[:, None].expand_as(columns)
    whole[row[real], columns[real]] = part[real]
