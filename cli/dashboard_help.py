"""What keys do and what words mean, for `?`; and the line of keys at the foot of every page."""

from __future__ import annotations

from rich.text import Text

from cli.dashboard_options import PAGES, Scrolled, ViewOptions, scrolled
from cli.dashboard_text import age, fit, titled_rule, wrapped

#: Keys and what they do; a test compares the table of docs/dashboard.md.
KEYS = (
    ("1 to 5, Tab", "overview, GPUs, decisions, requests, log"),
    ("↑ ↓ PgUp PgDn", "scroll (also k j); Home End: first and last"),
    ("+ -", "longer or shorter charts: 1 min, 5 min, 15 min, 60 min"),
    ("/", "only rows with a text; !text: only the others; Esc: all"),
    ("p", "hold the picture; the deployment goes on"),
    ("s", "save the picture as SVG in the working folder"),
    ("r", "begin and end a recording (clover dashboard --replay FILE)"),
    ("? or h", "this help"),
    ("q", "quit; inside clover up: end the deployment in order"),
)
CONTROL_KEYS = (
    ("c", "pause or resume the controller (asks first)"),
    ("n", "pin the present plan, or unpin it (asks first)"),
    ("x", "park a GPU, or release one: asks which (as n1/3)"),
)
#: Width from which the foot has room for all keys with what they do.
_ALL_WORDS = 108
_NAME_WIDTH = 19
#: Lines of one explanation.
_LONGEST = 6
_WORDS = (
    ("SIM, ESTIMATE", "joules are simulated, or estimated from processor time: nobody measured them"),
    ("BASE", "the largest variant on every GPU, none parked: savings are counted against it (modelled)"),
    ("right-sized", "the largest variant on as few GPUs as the SLA needs, the others parked (modelled)"),
    ("OK ● WARN ▲ SLA ✖", "p95 within the SLA; less than 5 % below it; above it"),
    ("stale", "the grid's intensity is older than its interval: plans stay as they are"),
    ("dim grid", "what is expected: a forecast, the same hours yesterday, or a trace's next rows"),
    ("░", "upper end of the band that held 80 % of what came of earlier forecasts"),
    ("PAUSED, PINNED", "people overrule the controller: clover plan pause, pin, apply; BY HAND: clover node"),
    ("┄┄", "in charts: the SLA, BASE, the largest variant's accuracy, the planned load"),
)


def help_page(options: ViewOptions, width: int, room: int) -> tuple[list[Text], Scrolled]:
    """Draw the help; where it does not fit it is scrolled."""
    lines = [line for key, what in KEYS for line in _pair(key, what, width)]
    if options.control:
        lines += [line for key, what in CONTROL_KEYS for line in _pair(key, what, width)]
    lines.append(titled_rule(Text("words"), width))
    lines += [line for word, what in _WORDS for line in _pair(word, what, width)]
    part = scrolled(len(lines), room - 1, options.scroll)
    note = f"keys and words, {part.note} (↑ ↓)" if part.note else "keys"
    return [titled_rule(Text(note), width), *lines[part.first : part.end]], part


def _pair(name: str, what: str, width: int) -> list[Text]:
    """Write a word and what it means, in several lines if need be."""
    lines = wrapped(Text(what), max(1, width - _NAME_WIDTH), _LONGEST)
    return [
        Text.assemble((f"{'' if number else name:<{_NAME_WIDTH}}", "bold"), line) for number, line in enumerate(lines)
    ]


def footer(options: ViewOptions, note: str, width: int) -> Text:
    """Draw the last line: what is typed or said, else pages and keys."""
    right = Text(note, style="dim")
    if options.prompt is not None:
        return fit([Text(options.prompt, style="bold")], width)
    if options.notice:
        return fit([Text(options.notice, style="bold yellow"), right], width)
    pages = Text()
    for number, name in enumerate(PAGES, start=1):
        chosen = name == options.page and not options.help
        pages.append(f"{number}", style="bold")
        pages.append(f" {name}", style="bold reverse" if chosen else "dim")
        pages.append(" ")
    keys = ["q quit", "? help", "/ filter", "p pause", f"+/- {age(options.window_s)}", "s save", "r record"]
    keys = keys if width >= _ALL_WORDS else ["q quit", "? help", "/ p + - s r"]
    keys += ["c n x control"] if options.control else []
    return fit([pages, *(Text(key, style="dim") for key in keys), right if note else None], width, gap="  ")
