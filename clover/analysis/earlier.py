"""What a page that is computed in part keeps of the page before: the text of every field of which it has no figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter


def fields(template: str, page: str) -> dict[str, str]:
    """Return what stands in a page for each field of its template, nothing if the page is of another template."""
    pattern, named = "", set[str]()
    for text, name, _format, _conversion in Formatter().parse(template):
        pattern += re.escape(text)
        if name:
            pattern += f"(?P={name})" if name in named else f"(?P<{name}>.*?)"
            named.add(name)
    found = re.fullmatch(pattern, page, re.DOTALL)
    return {} if found is None else found.groupdict()


def sentences(summary: str, openings: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the sentences of a list by topic.

    Args:
        summary: Lines that begin with `* `.
        openings: By topic, a regular expression of how its sentences begin.
    """
    lines = [line.removeprefix("* ") for line in summary.splitlines() if line.startswith("* ")]
    return {topic: [line for line in lines if re.match(opening, line)] for topic, opening in openings.items()}
