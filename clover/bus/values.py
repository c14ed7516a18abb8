"""What goes into the calls of the bus and comes out of them, beside the messages themselves."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec

from clover.bus.messages import Message, Reply, Request
from clover.core.tiers import MAX_TIERS

#: For `pull` and `claim`: only what any variant may answer, and everything.
NO_TIERS: Mapping[int, int] = MappingProxyType({})
ALL_TIERS: Mapping[int, int] = MappingProxyType(dict.fromkeys(range(2, MAX_TIERS + 1), 1_000_000))


class Feed(StrEnum):
    """Bounded streams that anyone may follow; the key of each is `{deployment}:<value>`."""

    LOG = "log"
    TELEMETRY = "tel"
    CARBON = "carbon"
    EVENTS = "evt"


class Admission(StrEnum):
    """What became of a request at the door."""

    ADMITTED = "admitted"
    DUPLICATE = "duplicate"
    FULL = "full"
    UNMET = "unmet"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A request in the hands of one consumer; `times_delivered` counts from 1."""

    entry_id: str
    stream: str
    request: Request
    times_delivered: int = 1


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery and its reply; with `dead_reason` the request also goes to the dead stream."""

    delivery: Delivery
    reply: Reply
    dead_reason: str = ""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """Entries taken over from consumers that stopped sending heartbeats.

    `vanished_ids` are stream ids that were pending but no longer exist (trimmed by somebody): lost, and to be said
    aloud.
    """

    deliveries: list[Delivery]
    vanished_ids: list[str]


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """Ids of requests that the sweeper answered: `expired` past their deadline, `vanished` from their stream.

    What has vanished was trimmed or deleted by somebody, unanswered: work that was lost, and is to be said aloud.
    """

    expired: list[str]
    vanished: list[str]


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The request stream: `waiting` unread, `pending` in work, `admitted` ever, `oldest_age_s` of the first entry."""

    waiting: int
    pending: int
    admitted: int
    oldest_age_s: float


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One decoded entry of a feed."""

    feed: Feed
    id: str
    message: Message


class FeedExtent(msgspec.Struct, frozen=True, kw_only=True):
    """What a feed keeps at one moment: `length` entries from `first_id` to `last_id`, of `added` ever.

    `last_id` is that of the newest entry ever added, kept or not. Ids are `0-0` where there is no entry. What was
    trimmed or deleted is `added - length`.
    """

    first_id: str
    last_id: str
    length: int
    added: int


def entry_order(entry_id: str) -> tuple[int, int]:
    """Return an id of a feed as numbers that can be compared (`0` is before all)."""
    head, _, tail = entry_id.partition("-")
    return int(head), int(tail or 0)
