"""The embedded engine: Hugging Face models and PEFT adapters on one shared cache."""

from lragent.engine.engine import Engine
from lragent.engine.params import SamplingParams
from lragent.engine.request import Chunk, Completion, Request, TokenLogprob
from lragent.engine.stats import AdapterStats, EngineStats

__all__ = [
    "AdapterStats",
    "Chunk",
    "Completion",
    "Engine",
    "EngineStats",
    "Request",
    "SamplingParams",
    "TokenLogprob",
]
