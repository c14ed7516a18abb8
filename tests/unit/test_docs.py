"""What the documents say is tested, is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clover.agents.control_document import with_diagram

ROOT = Path(__file__).parents[2]
DEFINED = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize("document", ["mig.md", "operations/mig.md", "operations/node.md"])
def test_every_test_that_a_document_names_is_there(document: str) -> None:
    named = set(re.findall(r"`(test_\w+)(?:\.\.\.)?`", (ROOT / "docs" / document).read_text(encoding="utf-8")))
    for name in named:
        # A name that ends in dots is the beginning of one.
        assert any(each == name or each.startswith(name) for each in DEFINED), f"{document} names {name}"


def test_the_committed_state_diagram_is_the_generated_one() -> None:
    text = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
    assert text == with_diagram(text)
    assert "serving --> deciding : triggered" in text
