"""The chapters on operations name tests that hold what they say: each of them must be there, and every link too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "operations"
CHAPTERS = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
PROMISES = [line for line in CHAPTERS["promises.md"].splitlines() if re.match(r"\| P\d ", line)]


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


@pytest.mark.parametrize(("file", "name"), sorted({one for text in CHAPTERS.values() for one in named_tests(text)}))
def test_every_named_test_exists(file: str, name: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_link_leads_somewhere_and_the_index_names_every_chapter(chapter: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", CHAPTERS[chapter])
    assert [link for link in links if not (FOLDER / link).exists()] == []
    assert chapter == "README.md" or f"]({chapter})" in CHAPTERS["README.md"]
