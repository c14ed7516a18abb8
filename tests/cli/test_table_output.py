"""Tables that people read show values as they are: what stands in brackets is no markup."""

from __future__ import annotations

import pytest

from cli.planning import table
from cli.query import _draw


def test_a_table_of_the_planner_keeps_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    table("of [red] GPUs", [("", True), ("", True)], [("GPUs", "6 x [parked], 4 x [7g:base]")], caption="[bold]")
    shown = capsys.readouterr().out
    for words in ("of [red] GPUs", "6 x [parked], 4 x [7g:base]", "[bold]"):
        assert words in shown


def test_a_table_of_a_query_keeps_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    _draw(["what", "value"], [("6 x [parked]", 1.5), ("[/]", None)])
    shown = capsys.readouterr().out
    assert "6 x [parked]" in shown
    assert "[/]" in shown
