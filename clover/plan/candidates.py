"""What may become a plan while the flow model is asked for less and less: candidates and rooms, the best first."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from clover.plan.points import PlanPoint
from clover.plan.rooms import Lateness, Room, Sketch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A plan, what was asked of the flows that it comes from, what they used, and how late shares would be."""

    room: Room
    used: Room
    point: PlanPoint
    shares: Lateness


class Queue:
    """Candidates and sketches of rooms, the highest score first; and what may still be tried.

    Attributes:
        rooms: How many rooms may still be sketched.
        programs: How many of them may still be solved in whole numbers.
    """

    def __init__(self, *, rooms: int, programs: int) -> None:
        self.rooms, self.programs = rooms, programs
        self._entries: list[tuple[float, int, Candidate | Sketch]] = []
        self._pushed = 0
        self._seen: set[Room] = set()

    def push(self, score: float, what: Candidate | Sketch) -> None:
        """Add."""
        self._pushed += 1
        heapq.heappush(self._entries, (-score, self._pushed, what))

    def pop(self, at_least: float) -> Candidate | Sketch | None:
        """Take the best one; None if nothing scores more than this."""
        if not self._entries or -self._entries[0][0] <= at_least:
            return None
        return heapq.heappop(self._entries)[2]

    def is_new(self, room: Room) -> bool:
        """Return whether a room may be sketched, and count it."""
        if room in self._seen or self.rooms == 0:
            return False
        self._seen.add(room)
        self.rooms -= 1
        return True
