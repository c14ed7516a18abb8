"""The Lua scripts: each a file under `lua/`, with the constants of the registry written in front of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from clover.bus import keys, limits
from clover.bus.envelope import VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script and the digest by which the server knows it."""

    name: str
    text: str
    sha: str


def _constants() -> str:
    values = {
        "VERSION": f"'{VERSION}'",
        "GROUP": f"'{keys.GROUP}'",
        "RELEASED": f"'{keys.RELEASED}'",
        "RELEASED_IDLE_MS": keys.RELEASED_IDLE_MS,
        "VANISHED_SCAN": limits.VANISHED_SCAN,
        "STRANGERS_SCAN": limits.STRANGERS_SCAN,
        "IDEMPOTENCY_AFTER_DEADLINE_MS": limits.IDEMPOTENCY_AFTER_DEADLINE_MS,
        "REPLY_MAXLEN": limits.REPLY_MAXLEN,
        "REPLY_TTL_MS": limits.REPLY_TTL_MS,
        "DEAD_MAXLEN": limits.DEAD_MAXLEN,
        "TARGET_MAXLEN": limits.TARGET_MAXLEN,
        "NOW_TTL_MS": limits.NOW_TTL_MS,
        "LIVE_WINDOW_MS": limits.LIVE_WINDOW_MS,
    }
    return "".join(f"local {name} = {value}\n" for name, value in values.items())


def _load(name: str) -> Script:
    folder = files("clover.bus") / "lua"
    parts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", name)]
    text = "\n".join([_constants(), *parts])
    # The server names scripts by SHA-1; nothing secret hangs on it.
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name=name, text=text, sha=sha)


ADMIT = _load("admit")
TAKE = _load("take")
DONE = _load("done")
BURY = _load("bury")
OWN = _load("own")
CLAIM = _load("claim")
KEEP = _load("keep")
QUEUE = _load("queue")
RELEASE = _load("release")
LEAVE = _load("leave")
REAP = _load("reap")
OVERDUE = _load("overdue")
CLOSE = _load("close")
PUBLISH = _load("publish")
CARBON = _load("carbon")
TELEMETRY = _load("telemetry")
BEAT = _load("beat")
ALIVE = _load("alive")
LEASE = _load("lease")
UNLEASE = _load("unlease")
PLAN = _load("plan")
REPLAN = _load("replan")
HAND = _load("hand")
