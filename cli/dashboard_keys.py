"""What keys do to a way of looking: a pure function, so that no terminal is needed to try it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cli.dashboard_options import PAGES, WINDOWS_S, ViewOptions

_ESCAPES = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[5~": "page-up", "\x1b[6~": "page-down",
    "\x1b[H": "home", "\x1b[1~": "home", "\x1bOH": "home", "\x1b[F": "end", "\x1b[4~": "end", "\x1bOF": "end",
    "\x1b[Z": "back-tab",
}  # fmt: skip
_SPECIAL = {
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "rub-out",
    "\x08": "rub-out",
    "\t": "tab",
    " ": "space",
}
_KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])|.", re.DOTALL)
#: Rows that a page key moves.
_PAGE = 10
_STEPS = {"up": -1, "k": -1, "down": 1, "j": 1, "page-up": -_PAGE, "page-down": _PAGE}
_LONGEST_FILTER = 60
#: Keys that change the deployment, and what they are about.
_CONTROL = {"c": "pause", "n": "pin", "x": "park"}


def keys_of(typed: str) -> list[str]:
    """Return the names of keys that a terminal sent: a character, or `up`, `enter` and so on."""
    names = _ESCAPES | _SPECIAL
    found = [names.get(each.group(), each.group()) for each in _KEY.finditer(typed)]
    return [key for key in found if len(key) == 1 or not key.startswith("\x1b")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """A way of looking, and what is being asked at the foot of the screen.

    Attributes:
        options: What the picture is drawn with.
        asking: What the typed text is for: `filter`, `gpu`, `confirm`; empty if nothing is asked.
        typed: So far.
        about: What a `confirm` is about, as `pause`, `pin` or `park n1/3`.
        actions: What is to be done now, oldest first: `quit`, `save`, `record`, or the `about` of a confirmation.
    """

    options: ViewOptions = field(default_factory=ViewOptions)
    asking: str = ""
    typed: str = ""
    about: str = ""
    actions: tuple[str, ...] = ()


def press(looking: Looking, key: str, scroll_most: int) -> Looking:
    """Return how it is looked on after a key.

    Args:
        looking: Before.
        key: Its name, see `keys_of`.
        scroll_most: Of the picture that is seen.
    """
    if looking.asking:
        return _with_prompt(_answer(looking, key))
    options = replace(looking.options, notice="")
    looking = replace(looking, options=options)
    if key in _STEPS or key in {"home", "end"}:
        return replace(looking, options=replace(options, scroll=_scrolled(options.scroll, key, scroll_most)))
    if key in {"tab", "back-tab"} or (key.isdigit() and 1 <= int(key) <= len(PAGES)):
        return replace(looking, options=replace(options, page=_page(options.page, key), scroll=0, help=False))
    return _with_prompt(_command(looking, key))


def _scrolled(now: int, key: str, most: int) -> int:
    wanted = {"home": 0, "end": most}.get(key, min(now, most) + _STEPS.get(key, 0))
    return max(0, min(most, wanted))


def _page(now: str, key: str) -> str:
    if key.isdigit():
        return PAGES[int(key) - 1]
    return PAGES[(PAGES.index(now) + (1 if key == "tab" else -1)) % len(PAGES)]


_ACTIONS = {"q": "quit", "s": "save", "r": "record"}
#: What keys change at once.
_CHANGES: dict[str, Callable[[ViewOptions], ViewOptions]] = {
    "?": lambda options: replace(options, help=not options.help, scroll=0),
    "p": lambda options: replace(options, paused=not options.paused),
    "+": lambda options: replace(options, window_s=_window(options.window_s, 1)),
    "-": lambda options: replace(options, window_s=_window(options.window_s, -1)),
    "escape": lambda options: replace(options, filter="", help=False, scroll=0),
}
_SAME = {"h": "?", "space": "p", "=": "+", "_": "-"}


def _command(looking: Looking, key: str) -> Looking:
    options, key = looking.options, _SAME.get(key, key)
    if key in _ACTIONS:
        return replace(looking, actions=(*looking.actions, _ACTIONS[key]))
    if key in _CHANGES:
        return replace(looking, options=_CHANGES[key](options))
    if key == "/":
        return replace(looking, asking="filter", typed=options.filter)
    if key in _CONTROL and not options.control:
        return replace(looking, options=replace(options, notice="only with clover dashboard --control"))
    return _ask_control(looking, key) if key in _CONTROL else looking


def _ask_control(looking: Looking, key: str) -> Looking:
    if key == "x":
        return replace(looking, asking="gpu", typed="")
    return replace(looking, asking="confirm", typed="", about=_CONTROL[key])


def _window(now_s: float, step: int) -> float:
    nearest = min(range(len(WINDOWS_S)), key=lambda index: abs(WINDOWS_S[index] - now_s))
    return WINDOWS_S[max(0, min(len(WINDOWS_S) - 1, nearest + step))]


# --- what is asked


def _answer(looking: Looking, key: str) -> Looking:
    if key == "escape":
        return replace(looking, asking="", typed="", about="")
    if looking.asking == "confirm":
        done = replace(looking, asking="", typed="", about="")
        return replace(done, actions=(*done.actions, looking.about)) if key in {"y", "Y"} else done
    if key == "enter":
        return _entered(looking)
    if key == "rub-out":
        return replace(looking, typed=looking.typed[:-1])
    letter = " " if key == "space" else key
    if len(letter) == 1 and letter.isprintable() and len(looking.typed) < _LONGEST_FILTER:
        return replace(looking, typed=looking.typed + letter)
    return looking


def _entered(looking: Looking) -> Looking:
    done = replace(looking, asking="", typed="")
    if looking.asking == "filter":
        return replace(done, options=replace(looking.options, filter=looking.typed.strip(), scroll=0))
    return replace(done, asking="confirm", about=f"park {looking.typed.strip()}") if looking.typed.strip() else done


_QUESTIONS = {
    "pause": "pause the controller, or let it go on if it is paused? y/n",
    "pin": "pin the plan in force, or unpin it if it is pinned? y/n",
}


def _with_prompt(looking: Looking) -> Looking:
    """Return the same with what is asked written at the foot."""
    match looking.asking:
        case "filter":
            prompt = f"show only rows with: {looking.typed}_   (Enter; Esc: leave it)"
        case "gpu":
            prompt = f"park or release GPU (such as n1/3): {looking.typed}_   (Enter; Esc: leave it)"
        case "confirm":
            prompt = _QUESTIONS.get(looking.about, f"{looking.about}, or release it if it is parked by hand? y/n")
        case _:
            prompt = None
    return replace(looking, options=replace(looking.options, prompt=prompt))
