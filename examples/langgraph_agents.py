"""A LangGraph graph whose nodes are adapters of one server, with hand-overs seen in its usage.

pip install langgraph openai
python examples/langgraph_agents.py http://localhost:8000/v1
"""

from __future__ import annotations

import sys
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from openai import OpenAI

AGENTS = ("plan", "act")  # names that the server has for its adapters
DOCUMENT = "The harbour was opened in 1873 and has eleven berths. " * 20
client = OpenAI(base_url=sys.argv[1], api_key="none")


class State(TypedDict):
    """What the agents hand over: all that was said, and the cached tokens of each turn."""

    said: str
    cached: list[int]


def node(agent: str):
    """A node that lets one adapter go on with what was said.

    What is common comes first, and each agent's own instruction last: only beginnings are shared.
    """

    def turn(state: State) -> State:
        prompt = f"{state['said']}\n\nYou are {agent}. Your turn:"
        answer = client.completions.create(model=agent, prompt=prompt, max_tokens=16, temperature=0)
        details = answer.usage.prompt_tokens_details if answer.usage else None
        cached = (details.cached_tokens or 0) if details else 0
        said = f"{state['said']}\n\n{agent}: {answer.choices[0].text}"
        return {"said": said, "cached": [*state["cached"], cached]}

    return turn


graph = StateGraph(State)
for name in AGENTS:
    graph.add_node(name, node(name))
for before, after in zip((START, *AGENTS), (*AGENTS, END), strict=True):
    graph.add_edge(before, after)
result = graph.compile().invoke({"said": DOCUMENT, "cached": []})
for name, cached in zip(AGENTS, result["cached"], strict=True):
    print(f"{name}: {cached} prompt tokens came from the cache")
