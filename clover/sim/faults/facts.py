"""A history, sorted by what it is about: requests with all that befell them, faults, and the rest by type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from clover.core.outcome import LOST_AFTER_DEADLINE_S, Outcome, ProducerOutcome
from clover.sim.faults.history import (
    AdmissionEnded,
    AnyRecord,
    Ended,
    Fault,
    Finished,
    Invoked,
    ProcessEnded,
    Record,
    ReplySeen,
    Sample,
)

R = TypeVar("R", bound=Record)

#: A producer gives a request up this long after its deadline.
_GIVEN_UP_MS = LOST_AFTER_DEADLINE_S * 1e3


@dataclass(slots=True)
class RequestStory:
    """Everything that the history says about one request."""

    id: str
    invoked: Invoked | None = None
    admissions: list[AdmissionEnded] = field(default_factory=list)
    replies: list[ReplySeen] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    finishes: list[Finished] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        """Whether somebody was told that it is in the queue."""
        return any(admission.result == "ok" for admission in self.admissions)

    @property
    def refused(self) -> bool:
        """Whether its producer was told that it is not in the queue."""
        return any(admission.result == "fail" for admission in self.admissions)

    @property
    def unanswered(self) -> bool:
        """Whether it ended without an answer although nobody refused it."""
        return any(end.outcome in {ProducerOutcome.LOST, ProducerOutcome.FAILED} for end in self.ends)

    @property
    def given_up(self) -> bool:
        """Whether it failed by a reply that names no node: its entry was gone."""
        failed = any(end.outcome is ProducerOutcome.FAILED for end in self.ends)
        return failed and any(reply.outcome is Outcome.FAILED and not reply.node for reply in self.replies)

    def seen_by(self, reader: str) -> int:
        """Return how many reply entries a reader found."""
        return sum(reply.by == reader for reply in self.replies)


class Facts:
    """The records of a run, indexed."""

    def __init__(self, records: Iterable[AnyRecord]) -> None:
        self.records = sorted(records, key=lambda record: record.at_ms)
        self._stories: dict[str, RequestStory] = {}
        for record in self.records:
            self._file(record)
        self.faults = list(self.of(Fault))
        self.samples = list(self.of(Sample))
        #: Whether the run was watched until everything was quiet.
        self.complete = any(sample.final for sample in self.samples)
        self._gone = {record.name for record in self.of(ProcessEnded)}
        self.observed = any(isinstance(r, ReplySeen) and r.by == "observer" for r in self.records)

    def _file(self, record: AnyRecord) -> None:
        match record:
            case Invoked():
                story = self._story(record.id)
                story.invoked = story.invoked or record
            case AdmissionEnded():
                self._story(record.id).admissions.append(record)
            case ReplySeen():
                self._story(record.id).replies.append(record)
            case Ended():
                self._story(record.id).ends.append(record)
            case Finished():
                self._story(record.id).finishes.append(record)
            case _:
                pass

    def _story(self, request_id: str) -> RequestStory:
        return self._stories.setdefault(request_id, RequestStory(request_id))

    @property
    def stories(self) -> Sequence[RequestStory]:
        """All requests in order of their first appearance."""
        return list(self._stories.values())

    def of(self, kind: type[R]) -> Iterator[R]:
        """Return the records of one type in order of time."""
        return (record for record in self.records if isinstance(record, kind))

    def owned(self) -> Iterator[tuple[RequestStory, Invoked]]:
        """Return the requests whose producer lived to see their end, with their invocations."""
        for story in self._stories.values():
            if story.invoked is not None and story.invoked.producer not in self._gone:
                yield story, story.invoked

    def excused(self, request: Invoked) -> bool:
        """Return whether a fault of class B touched the life of a request."""
        until_ms = request.deadline_ms + _GIVEN_UP_MS
        return any(f.kind == "B" and f.at_ms <= until_ms and f.until_ms >= request.due_ms for f in self.faults)

    def due_during(self, fault: Fault) -> list[RequestStory]:
        """Return the requests that became due during a fault and that no fault of class B excuses."""
        return [
            story
            for story, request in self.owned()
            if fault.at_ms <= request.due_ms <= fault.until_ms and not self.excused(request)
        ]

    def data_lost_between(self, from_ms: float, until_ms: float) -> bool:
        """Return whether a fault of class B fell into a span of time."""
        return any(f.kind == "B" and f.at_ms <= until_ms and f.until_ms >= from_ms for f in self.faults)
