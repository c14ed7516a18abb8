"""One picture of the dashboard without a terminal: as SVG, as text, or on the console there is."""

from __future__ import annotations

import html
import io
import re
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cli.dashboard import view
from cli.dashboard_live import ascii_of, known_variants
from cli.dashboard_options import ViewOptions
from clover.analysis.view_state import Snapshot


def save_svg(path: Path, snapshot: Snapshot, options: ViewOptions, width: int, height: int) -> None:
    """Draw a picture into an SVG file."""
    path.write_text(svg_of(snapshot, options, width, height), encoding="utf-8")


def svg_of(snapshot: Snapshot, options: ViewOptions, width: int, height: int) -> str:
    """Return a picture as SVG."""
    # Without a colour system: rich keeps a style's codes once they are made, and those of a live screen may be others.
    console = Console(
        record=True, width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None,
        no_color=not options.colour,
    )  # fmt: skip
    options = replace(options, variants=options.variants or known_variants(snapshot.application))
    console.print(view(snapshot, width, height, options))
    return _without_blank_ends(console.export_svg(title=f"clover {options.deployment}"))


#: A piece of text in an SVG of rich: its attributes up to x, x, those up to its length, its length, the others, itself.
_PIECE = re.compile(r'(<text [^>]*\bx=")([\d.]+)("[^>]*\btextLength=")([\d.]+)("[^>]*>)([^<]*)(</text>)')
_BLANK = "\xa0"


def _without_blank_ends(svg: str) -> str:
    """Return a picture whose pieces of text begin and end with what is seen.

    Some viewers (librsvg) drop blanks at the beginning of a piece and stretch the rest over its length.
    """
    return _PIECE.sub(_trimmed, svg)


def _trimmed(piece: re.Match[str]) -> str:
    before, x, between, length, after, text, end = piece.groups()
    whole = html.unescape(text)
    seen = whole.strip(_BLANK)
    if not seen or len(seen) == len(whole):
        return piece[0] if seen else ""
    cell = float(length) / len(whole)
    at = float(x) + cell * (len(whole) - len(whole.lstrip(_BLANK)))
    shown = html.escape(seen).replace(_BLANK, "&#160;")
    return f"{before}{at:.1f}{between}{cell * len(seen):.1f}{after}{shown}{end}"


def print_picture(snapshot: Snapshot, options: ViewOptions, size: tuple[int, int] | None) -> None:
    """Print a picture on standard output, as large as the terminal or as was asked for."""
    console = Console()
    if size is not None:
        console = Console(width=size[0], height=size[1])
    height = console.height - 1 if console.is_terminal and size is None else console.height
    options = replace(
        options,
        variants=known_variants(snapshot.application),
        ascii_only=options.ascii_only or ascii_of(console),
        colour=options.colour and not console.no_color,
    )
    console.print(view(snapshot, console.width, height, options))
