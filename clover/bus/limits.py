"""The numbers behind the registry of keys: how long things live, how many there may be, how far a script looks.

The Lua scripts and the bus in memory take them from here (`clover.bus.scripts`, `clover.bus.memory`), so that both keep
the same promises.
"""

from __future__ import annotations

from clover.bus.values import Feed

#: Most open requests that one look for vanished entries goes through.
VANISHED_SCAN = 10_000
#: First entries of each request stream that a sweep looks at if some were never admitted.
STRANGERS_SCAN = 10

#: An id stays known until this long after the request's deadline.
IDEMPOTENCY_AFTER_DEADLINE_MS = 60_000
#: Replies that nobody fetches vanish this long after the last one was written.
REPLY_TTL_MS = 600_000
#: Last intensity and ledger; long enough to see over a weekend what the grid monitor last said.
NOW_TTL_MS = 7 * 86_400_000
#: Heartbeats older than this are forgotten.
LIVE_WINDOW_MS = 3_600_000

REPLY_MAXLEN = 20_000
DEAD_MAXLEN = 10_000
TARGET_MAXLEN = 100
FEED_MAXLEN: dict[Feed, int] = {
    Feed.LOG: 100_000,
    Feed.TELEMETRY: 50_000,
    Feed.CARBON: 20_000,
    Feed.EVENTS: 100_000,
}
