"""``/v1/models``, and vLLM's routes that load and unload adapters."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse

from lragent.server.errors import ApiError, refusals
from lragent.server.protocol.models import LoadBody, ModelCard, ModelList, UnloadBody
from lragent.server.state import State

router = APIRouter()


def _changes_allowed(state: State) -> None:
    if not state.options.runtime_adapters:
        raise ApiError(
            403,
            "the adapters are fixed; start this server with --runtime-adapters to change them",
        )


@router.get("/v1/models")
async def models(state: State) -> ModelList:
    """The base model and its adapters."""
    return ModelList(data=state.models.cards())


@router.get("/v1/models/{name:path}")
async def model(name: str, state: State) -> ModelCard:
    """One of them."""
    state.models.adapter(name)
    return next(card for card in state.models.cards() if card.id == name)


@router.post(
    "/v1/load_lora_adapter",
    dependencies=[Depends(_changes_allowed)],
    response_class=PlainTextResponse,
)
def load(body: LoadBody, state: State) -> str:
    """Load an adapter from a folder of the server's machine, while requests run."""
    with refusals():
        return state.models.load(body)


@router.post(
    "/v1/unload_lora_adapter",
    dependencies=[Depends(_changes_allowed)],
    response_class=PlainTextResponse,
)
def unload(body: UnloadBody, state: State) -> str:
    """Take an adapter away; requests that run on it finish."""
    with refusals():
        return state.models.unload(body.lora_name)
