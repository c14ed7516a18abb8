"""The chapter on the bus names tests that hold its promises: each of them must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHAPTER = (ROOT / "docs" / "operations-bus.md").read_text(encoding="utf-8")
PROMISES = [line for line in CHAPTER.splitlines() if re.match(r"\| P\d ", line)]


def named_tests(text: str) -> list[tuple[str, str]]:
    """Return files and tests; `::test_x` alone is in the file named before it."""
    found: list[tuple[str, str]] = []
    file = ""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", text):
        file = path or file
        if file:
            found.append((file, name))
    return found


def test_every_promise_is_there_once_and_names_a_test() -> None:
    assert [re.match(r"\| (P\d)", line)[1] for line in PROMISES] == [f"P{number}" for number in range(1, 10)]  # type: ignore[index]
    for line in PROMISES:
        assert [name for _, name in named_tests(line) if name], line


@pytest.mark.parametrize(("file", "name"), sorted(set(named_tests(CHAPTER))))
def test_every_named_test_exists(file: str, name: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE)
