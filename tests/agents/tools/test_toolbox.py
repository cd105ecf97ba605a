from __future__ import annotations

import pytest

from lragent.agents.tools import DocumentStore, Observation, Toolbox, ToolError, document_toolbox
from lragent.agents.tools.passages import PASSAGE_CHARS

LONG = "Oss is long. " + "It flows and flows through many a meadow. " * 40 + "Its mouth is at Alba."


@pytest.fixture
def tools() -> Toolbox:
    return document_toolbox(
        DocumentStore(
            [
                ("Alba", "Alba is a town. Its mayor is Ida Holm.\n\nThe mayor lives in a tower."),
                ("Oss (river)", LONG),
                ("Oss valley", "A valley."),
            ]
        )
    )


def say(tools: Toolbox, *calls: tuple[str, str]) -> list[str]:
    return [tools.call(name, argument).text for name, argument in calls]


def test_retrieve_shows_the_start_of_the_page(tools: Toolbox):
    assert say(tools, ("Retrieve", "alba")) == ["Alba: Alba is a town. Its mayor is Ida Holm."]


def test_retrieve_of_an_unknown_title_names_others(tools: Toolbox):
    assert say(tools, ("Retrieve", "Oss bridge")) == [
        "No page Oss bridge. Similar titles: Oss (river); Oss valley."
    ]
    assert say(tools, ("Retrieve", "xyz")) == ["No page xyz."]


def test_search_shows_the_best_passage(tools: Toolbox):
    assert say(tools, ("Search", "who lives in the tower")) == ["Alba: The mayor lives in a tower."]
    assert say(tools, ("Search", "xyz")) == ["Nothing found for xyz."]


def test_lookup_goes_on_from_sentence_to_sentence(tools: Toolbox):
    assert say(
        tools,
        ("Lookup", "mayor"),
        ("Search", "tower"),
        ("Lookup", "MAYOR"),
        ("Lookup", "mayor"),
        ("Lookup", "mayor"),
        ("Lookup", "town"),
        ("Lookup", "river"),
        ("Retrieve", "Alba"),
        ("Lookup", "mayor"),
    ) == [
        "No page is open. Retrieve a page first.",
        "Alba: The mayor lives in a tower.",
        "Its mayor is Ida Holm.",
        "The mayor lives in a tower.",
        "No more sentence with mayor in Alba.",
        "Alba is a town.",
        "No sentence with river in Alba.",
        "Alba: Alba is a town. Its mayor is Ida Holm.",
        "Its mayor is Ida Holm.",
    ]


def test_observations_are_short(tools: Toolbox):
    for text in say(
        tools, ("Retrieve", "Oss (river)"), ("Search", "meadow"), ("Search", "y" * 999)
    ):
        assert len(text) <= PASSAGE_CHARS + 30


def test_errors_become_observations(tools: Toolbox):
    assert tools.call("calculate", "1 / 0") == Observation("Error: division by zero.")
    assert tools.call("Browse", "x") == Observation(
        "There is no tool 'Browse'. Tools: Search, Retrieve, Lookup, Calculate, Finish.",
        valid=False,
    )
    assert tools.call("Search", "  ") == Observation(
        "Search needs an argument in brackets.", valid=False
    )


def test_own_tools_may_refuse():
    def refuse(argument: str) -> str:
        raise ToolError(f"not {argument}")

    assert Toolbox({"Ask": refuse}).call("ASK", "him") == Observation("Error: not him.")
