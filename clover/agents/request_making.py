"""Makes the requests of a producer: what each asks for, by when, and whom it asks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from random import Random

from clover.bus.messages import Request
from clover.core.identifiers import uuid7
from clover.core.schedule import Traits


class RequestMaker:
    """Makes requests for one application.

    Args:
        application: Whom they ask.
        producer: Who is replied to.
        inputs: (content type, payload) of what is asked, used in turn.
        traits: Gives what each request asks for beside an answer.
        rng: Source of ids.
    """

    def __init__(
        self,
        application: str,
        producer: str,
        *,
        inputs: Sequence[tuple[str, bytes]],
        traits: Callable[[], Traits],
        rng: Random,
    ) -> None:
        self._application = application
        self._producer = producer
        self._inputs = itertools.cycle(inputs)
        self._traits = traits
        self._rng = rng

    def make(self, due_ms: float, deadline_s: float) -> Request:
        """Return the request that is due at a moment and worth nothing so many seconds later."""
        traits = self._traits()
        content_type, payload = next(self._inputs)
        return Request(
            id=uuid7(due_ms, self._rng),
            application=self._application,
            due_ms=due_ms,
            deadline_ms=due_ms + deadline_s * 1e3,
            reply_to=self._producer,
            priority=traits.priority,
            min_accuracy=traits.min_accuracy,
            content_type=content_type,
            payload=payload,
        )
