"""What keys do and what words mean, for `?`; and the line of keys at the foot of every page."""

from __future__ import annotations

from rich.text import Text

from cli.dashboard_options import PAGES, ViewOptions
from cli.dashboard_text import age, cut, fit, titled_rule

#: Keys and what they do; the table of docs is made from it too.
KEYS = (
    ("1 to 5, Tab", "overview, GPUs, decisions, requests, log"),
    ("↑ ↓ PgUp PgDn", "scroll (also k j); Home End: first and last"),
    ("+ -", "longer or shorter charts: 1 min, 5 min, 15 min, 60 min"),
    ("/", "show only rows that contain a text; !text: only the others; Esc: all again"),
    ("p", "hold the picture; the deployment goes on"),
    ("s", "save the picture as SVG in the working folder"),
    ("r", "begin and end recording messages, for clover dashboard --replay FILE"),
    ("? or h", "this help"),
    ("q", "quit"),
)
CONTROL_KEYS = (
    ("c", "pause or resume the controller (asks first)"),
    ("n", "pin the present plan, or unpin it (asks first)"),
    ("x", "park a GPU, or release one: asks which (as n1/3)"),
)
#: Width from which the foot has room for all keys with what they do.
_ALL_WORDS = 108
_WORDS = (
    ("SIM, ESTIMATE", "joules are simulated, or estimated from processor time; nobody measured them"),
    ("BASE", "the largest variant on every GPU, none parked; what savings are counted against (modelled)"),
    ("right-sized", "the largest variant on as few GPUs as the SLA needs, the others parked"),
    ("OK ● WARN ▲ SLA ✖", "p95 within the SLA; less than 5 % below it; above it"),
    ("stale", "the grid's intensity is older than its interval: plans stay as they are"),
    ("grid, dim", "what is expected: the published forecast, as yesterday, or a trace's rows; ░ its 80 % band"),
    ("PAUSED, PINNED", "people overrule the controller (clover plan pause, pin, apply), by hand: clover node"),
    ("┄┄", "in charts: the SLA, BASE, the largest variant's accuracy, the planned load"),
)


def help_page(options: ViewOptions, width: int, room: int) -> list[Text]:
    """Draw the help."""
    lines = [titled_rule(Text("keys"), width)]
    lines += [_pair(key, what) for key, what in KEYS]
    lines += [_pair(key, what) for key, what in CONTROL_KEYS] if options.control else []
    lines.append(titled_rule(Text("words"), width))
    lines += [_pair(word, what) for word, what in _WORDS]
    return [cut(line, width) for line in lines][: max(0, room)]


def _pair(name: str, what: str) -> Text:
    return Text.assemble((f"{name:<19}", "bold"), what)


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
