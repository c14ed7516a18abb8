"""Writes the generated part of docs/control.md: `python -m clover.agents.control_document docs/control.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from clover.core.transitions import state_diagram, transition_rows

BEGIN, END = "<!-- begin: generated -->\n", "<!-- end: generated -->"


def with_diagram(text: str) -> str:
    """Return a document with its generated part made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}```mermaid\n{state_diagram()}\n```\n\n{transition_rows()}\n{END}{after}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_diagram(file.read_text(encoding="utf-8")), encoding="utf-8")
