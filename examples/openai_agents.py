"""Agents of the openai-agents SDK, each with its own adapter, on one server.

pip install openai-agents
python examples/openai_agents.py http://localhost:8000/v1
"""

from __future__ import annotations

import sys

from openai import AsyncOpenAI

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, set_tracing_disabled

NAMES = ("plan", "act")  # names that the server has for its adapters
DOCUMENT = "The harbour was opened in 1873 and has eleven berths. " * 20

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=sys.argv[1], api_key="none")
settings = ModelSettings(max_tokens=16, temperature=0)

# No instructions: they would come before the document, and differ from agent to agent. Only
# beginnings are shared, so each agent's own words come last.
said = [{"role": "user", "content": DOCUMENT}]
for name in NAMES:
    model = OpenAIChatCompletionsModel(name, client)
    agent = Agent(name=name, model=model, model_settings=settings)
    asked = [*said, {"role": "user", "content": f"You are {name}. Go on."}]
    result = Runner.run_sync(agent, asked)  # pyright: ignore[reportArgumentType]
    usage = result.context_wrapper.usage
    print(f"{name}: {usage.input_tokens_details.cached_tokens} of {usage.input_tokens} cached")
    said = result.to_input_list()
