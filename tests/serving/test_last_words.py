from __future__ import annotations

import asyncio

import pytest
from serving_support import run

from clover.serving.last_words import LastWords, describe_ending


def test_the_last_lines_are_kept_and_cut() -> None:
    async def scenario() -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(b"".join(b"line %d\n\n" % number for number in range(30)))
        stream.feed_data(b"x" * 100_000 + b"\n\xff last")
        stream.feed_eof()
        words = LastWords()
        assert str(words) == ""
        await words.collect(stream)
        assert len(words.lines) == 20
        assert words.lines[0] == "line 12"
        assert words.lines[-2] == "x" * 1000
        assert str(words) == "; it last said: \N{REPLACEMENT CHARACTER} last"

    run(scenario())


@pytest.mark.parametrize(
    ("returncode", "text"),
    [
        (0, "ended with code 0"),
        (-9, "was ended by SIGKILL"),
        (-200, "was ended by signal 200"),
        (None, "cannot be ended"),
    ],
)
def test_an_exit_code_is_told_in_words(returncode: int | None, text: str) -> None:
    assert describe_ending(returncode) == text
