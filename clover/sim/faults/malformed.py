"""Entries that follow no wire contract, each wrong in another way."""

from __future__ import annotations

_GOOD = {"v": "1", "t": "request", "id": "planted", "due": "1", "dl": "2", "rt": "nobody", "prio": "normal", "acc": ""}
_GOOD |= {"tp": "", "d": '{"application":"albert"}', "p": ""}
#: Fields of malformed entries; the first could almost be requests.
MALFORMED: tuple[dict[str, str | bytes], ...] = (
    {**_GOOD, "v": "99"},
    {**_GOOD, "due": "NaN"},
    {**_GOOD, "dl": "1e999"},
    {**_GOOD, "d": b"\xff\xfe{"},
    {**_GOOD, "d": "[" * 5000},
    {**_GOOD, "rt": "a}b"},
    {"v": "1", "t": "no-such-type", "d": "{}"},
    {"v": "1", "t": "telemetry", "d": '{"node":3}'},
    {b"\x00".decode(): b"\xff"},
)
