"""The embedded engine: Hugging Face models and PEFT adapters on one shared cache."""

from lragent.engine.engine import Engine
from lragent.engine.outputs import Chunk, Completion, TokenLogprob
from lragent.engine.params import SamplingParams, StructuredOutputsParams
from lragent.engine.request import Request
from lragent.engine.stats import AdapterStats, EngineStats

__all__ = [
    "AdapterStats",
    "Chunk",
    "Completion",
    "Engine",
    "EngineStats",
    "Request",
    "SamplingParams",
    "StructuredOutputsParams",
    "TokenLogprob",
]
