"""A report as one HTML page without network, as Markdown, and the words that both use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from clover.analysis.report.drawing import Picture

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:.6rem 0;font-size:.92rem}
td,th{padding:.25rem .7rem;border-bottom:1px solid #e4e4e4;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
figure{margin:1.4rem 0}figure svg{max-width:100%;height:auto}figcaption{color:#555;font-size:.88rem}
.bad{font-weight:bold}.note{background:#f4f4f4;padding:.5rem .8rem}dt{font-weight:600}dd{margin:0 0 .5rem 1rem}
@media print{body{max-width:none;margin:0}figure,table{break-inside:avoid}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of texts; cells of `numbers` (by column) are set to the right."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset({1})


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a report says, in the order in which it says it.

    Attributes:
        title, lead: What it is about.
        notes: What a reader must know before anything else (a run that is open, what is missing).
        tables: Figures.
        pictures: Drawings.
        words: Definitions, by term.
        data: The same for programs.
        tables_first: How many of the tables come before the pictures.
    """

    title: str
    lead: str
    notes: Sequence[str]
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    words: Mapping[str, str]
    data: Mapping[str, Any] = field(default_factory=dict)
    tables_first: int = 1


def html(page: Page) -> str:
    """Return one page that needs no network, no script and no other file."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(page.title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{escape(page.title)}</h1><p>{escape(page.lead)}</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in page.notes),
        *(_html_table(table) for table in page.tables[: page.tables_first]),
        "<h2>Pictures</h2>",
        *(_html_picture(picture) for picture in page.pictures),
        *(_html_table(table) for table in page.tables[page.tables_first :]),
        "<h2>What the words mean</h2><dl>",
        *(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in page.words.items()),
        "</dl></body></html>",
    ]
    return "\n".join(parts)


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    lines = [
        "<tr>" + "".join(f"<td{_number(table, i)}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    ]
    return f"<h2>{escape(table.title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _number(table: Table, column: int) -> str:
    return ' class="n"' if column in table.numbers else ""


def _html_picture(picture: Picture) -> str:
    label = escape(f"{picture.title}. {picture.text}", quote=True)
    drawing = picture.svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f'<figure id="{picture.name}">{drawing}<figcaption>{escape(picture.text)}</figcaption></figure>'


def markdown(page: Page, figures: str) -> str:
    """Return the same as Markdown; pictures are linked as files of the folder `figures`."""
    lines = [f"# {page.title}", "", page.lead, ""]
    lines += [f"> {note}\n" for note in page.notes]
    for table in page.tables[: page.tables_first]:
        lines += _markdown_table(table)
    for picture in page.pictures:
        lines += [f"![{picture.title}]({figures}/{picture.name}.svg)", "", picture.text, ""]
    for table in page.tables[page.tables_first :]:
        lines += _markdown_table(table)
    lines += ["## What the words mean", "", *(f"- **{word}**: {meaning}" for word, meaning in page.words.items()), ""]
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    marks = ["---:" if i in table.numbers else "---" for i in range(len(table.header))]
    rows = [list(table.header), marks, *([cell.replace("|", "\\|") for cell in row] for row in table.rows)]
    return [f"## {table.title}", "", *("| " + " | ".join(row) + " |" for row in rows), ""]
