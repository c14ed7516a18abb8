"""Batches of the request log that came twice: a producer whose server died while it wrote cannot know, and writes anew.

It writes the very same batch again, and nothing between, so a batch that begins like the producer's last one is that
one. Requests have unique ids, so no other can begin so.
"""

from __future__ import annotations

from collections.abc import Mapping

from clover.bus.messages import RequestLog


class Repeats:
    """Tells batches that a reader has had already.

    Attributes:
        first_ids: Id of the first request in the last batch of each producer; a reader that is started again gives it.
    """

    def __init__(self, first_ids: Mapping[str, str] | None = None) -> None:
        self.first_ids = dict(first_ids or {})

    def seen(self, log: RequestLog) -> bool:
        """Take in the next batch of the log; return whether it is its producer's last one once more."""
        if not log.records:
            return False
        first_id = log.records[0].id
        if self.first_ids.get(log.producer) == first_id:
            return True
        self.first_ids[log.producer] = first_id
        return False
