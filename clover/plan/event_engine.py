"""The loop of the simulator for several node agents, shares, hold-back, priorities and least accuracies.

Agents pull: those with an idle instance wait at the stream, and the one that has waited longest is asked first, as a
server hands entries to blocked readers; whoever took a request lines up again. A request that no agent's rule takes
stays in the stream and is offered again when an instance becomes free, or when the patience of `shares` has run out.
High priority goes before normal, a stricter accuracy before a weaker one, then the oldest; a request that must wait
for an instance of its own kind does not hold up those behind it that ask for less.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from clover.core.dispatch import SHARE_PATIENCE_S, SHARE_SLACK_REQUESTS, DispatchRule, soonest_busy
from clover.plan.engines import Begun, Requests
from clover.plan.traffic import RequestClass

_INFINITY = float("inf")
#: Longer than the patience by less than anybody could measure, so that "longer than" holds when it is asked.
_PATIENCE_S = SHARE_PATIENCE_S + 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """The instances of one agent.

    Attributes:
        rule: How it hands out requests.
        shares: Wanted share per local kind (all 0 unless the rule is `shares`).
        accuracy_pct: Per local kind.
        instances: Numbers of the instances per local kind.
    """

    rule: DispatchRule
    shares: tuple[float, ...]
    accuracy_pct: tuple[float, ...]
    instances: tuple[tuple[int, ...], ...]


class _Agent:
    """One agent's idle instances by kind, and what it has begun."""

    def __init__(self, crew: Crew, able: Sequence[Sequence[int]]) -> None:
        self.rule = crew.rule
        self.idle: list[deque[tuple[float, int]]] = [deque((0.0, i) for i in numbers) for numbers in crew.instances]
        self.idle_count = sum(len(numbers) for numbers in crew.instances)
        self.served = [0] * len(crew.instances)
        self.begun = 0
        self.mean_s = [0.0] * len(crew.instances)
        self.able = able
        self._size = [len(numbers) for numbers in crew.instances]
        self._accuracy = crew.accuracy_pct
        self._shares = crew.shares

    def choose(self, part: int, waited_s: float) -> int:
        """Return the kind whose longest idle instance takes a request of a class, or -1; as core's `choose`."""
        name = self.rule.name
        idle = self.idle
        candidates = [k for k in self.able[part] if idle[k]]
        if not candidates:
            return -1
        if name == "shares":
            return self._by_shares(candidates, waited_s)
        if name == "longest_idle":
            return candidates[0] if len(candidates) == 1 else min(candidates, key=lambda k: idle[k][0])
        if name == "accurate":
            return min(candidates, key=lambda k: (-self._accuracy[k], self.mean_s[k], idle[k][0]))
        best = min(candidates, key=lambda k: (self.mean_s[k], idle[k][0]))
        return -1 if self.rule.hold_back and self._sooner_elsewhere(part, best) else best

    def _by_shares(self, candidates: list[int], waited_s: float) -> int:
        served, shares, begun, idle = self.served, self._shares, self.begun, self.idle
        best, best_key = -1, (_INFINITY, (0.0, 0))
        for k in candidates:
            key = (served[k] - shares[k] * begun, idle[k][0])
            if key < best_key:
                best, best_key = k, key
        return best if best_key[0] <= SHARE_SLACK_REQUESTS or waited_s > SHARE_PATIENCE_S else -1

    def _sooner_elsewhere(self, part: int, best: int) -> bool:
        busy = ((self.mean_s[k] * 1e3, self._size[k] - len(self.idle[k])) for k in self.able[part])
        wait_ms, service_ms = soonest_busy(busy)
        return wait_ms + service_ms < self.mean_s[best] * 1e3

    def take(self, kind: int) -> int:
        """Begin a request on the longest idle instance of a kind; return its number."""
        self.idle_count -= 1
        self.served[kind] += 1
        self.begun += 1
        return self.idle[kind].popleft()[1]


class EventEngine:
    """Events in order of time: arrivals, instances that become free, patience that runs out."""

    def __init__(self, crews: Sequence[Crew], classes: Sequence[RequestClass]) -> None:
        self._agents = [_Agent(crew, [_able(crew, part) for part in classes]) for crew in crews]
        self._home = {
            i: (agent, kind)
            for agent, crew in enumerate(crews)
            for kind, numbers in enumerate(crew.instances)
            for i in numbers
        }
        self._order = sorted(range(len(classes)), key=lambda part: _strictness(classes[part]))
        self._queues = [deque[tuple[float, int, float, float]]() for _ in classes]
        self._waiting = 0
        self._turn = OrderedDict.fromkeys(range(len(crews)))
        self._patient = any(crew.rule.name == "shares" for crew in crews)
        self._busy: list[tuple[float, int]] = []
        self._now = 0.0
        self._host: list[float] = []
        self._gpu: list[float] = []
        self._begun: list[tuple[int, float, int]] = []

    def set_times(self, host_s: Sequence[float], gpu_s: Sequence[float]) -> None:
        """Set the mean parts of the service time by instance, from now on."""
        self._host, self._gpu = list(host_s), list(gpu_s)
        for i, (agent, kind) in self._home.items():
            self._agents[agent].mean_s[kind] = host_s[i] + gpu_s[i]

    def run(self, requests: Requests) -> Begun:
        """Take the next requests; return those that have begun."""
        numbers = range(requests.first, requests.first + len(requests.arrival_s))
        parts: list[int] = requests.part.tolist()
        rows = zip(
            numbers,
            requests.arrival_s.tolist(),
            requests.host.tolist(),
            requests.gpu.tolist(),
            parts,
            strict=True,
        )
        for number, arrival, host, gpu, part in rows:
            self._advance(arrival)
            self._now = arrival
            # Whoever waits is not placed by an arrival: the instances are as they were.
            if self._queues[part] or not self._place(part, number, arrival, host, gpu):
                self._queues[part].append((arrival, number, host, gpu))
                self._waiting += 1
        return self._results()

    def drain(self) -> Begun:
        """Let all that still wait begin."""
        while self._waiting:
            before = self._waiting, len(self._busy), self._now
            self._advance(_INFINITY, until_empty=True)
            if before == (self._waiting, len(self._busy), self._now):
                raise ValueError(f"{self._waiting} requests are never served: no instance may take them")
        return self._results()

    def _advance(self, until: float, *, until_empty: bool = False) -> None:
        """Let time pass: instances become free and take what waits."""
        busy = self._busy
        while True:
            if until_empty and not self._waiting:
                return
            free_at = busy[0][0] if busy else _INFINITY
            due = self._patience_ends() if self._waiting and self._patient else _INFINITY
            now = min(free_at, due)
            if now > until or now == _INFINITY:
                return
            self._now = now
            if free_at <= due:
                self._free(heappop(busy))
            if self._waiting:
                self._dispatch()

    def _free(self, entry: tuple[float, int]) -> None:
        number, kind = self._home[entry[1]]
        agent = self._agents[number]
        agent.idle[kind].append(entry)
        agent.idle_count += 1
        if agent.idle_count == 1:
            self._turn[number] = None

    def _patience_ends(self) -> float:
        """Return when the next oldest request of a class has waited for too long, if not yet now."""
        ends = (queue[0][0] + _PATIENCE_S for queue in self._queues if queue)
        return min((end for end in ends if end > self._now), default=_INFINITY)

    def _dispatch(self) -> None:
        placed = True
        while placed and self._waiting:
            placed = False
            for part in self._order:
                queue = self._queues[part]
                if queue:
                    arrival, number, host, gpu = queue[0]
                    if self._place(part, number, arrival, host, gpu):
                        queue.popleft()
                        self._waiting -= 1
                        placed = True
                        break

    def _place(self, part: int, number: int, arrival: float, host: float, gpu: float) -> bool:
        for name in self._turn:
            agent = self._agents[name]
            kind = agent.choose(part, self._now - arrival)
            if kind < 0:
                continue
            i = agent.take(kind)
            finish = self._now + host * self._host[i] + gpu * self._gpu[i]
            heappush(self._busy, (finish, i))
            self._begun.append((number, finish, i))
            if agent.idle_count:
                self._turn.move_to_end(name)
            else:
                del self._turn[name]
            return True
        return False

    def _results(self) -> Begun:
        numbers, finishes, instances = zip(*self._begun, strict=True) if self._begun else ((), (), ())
        self._begun = []
        return Begun(np.array(numbers, dtype=np.intp), np.array(finishes), np.array(instances, dtype=np.intp))


def _able(crew: Crew, part: RequestClass) -> list[int]:
    least = -_INFINITY if part.min_accuracy_pct is None else part.min_accuracy_pct
    return [kind for kind, accuracy in enumerate(crew.accuracy_pct) if accuracy >= least]


def _strictness(part: RequestClass) -> tuple[bool, float]:
    return (not part.high_priority, _INFINITY if part.min_accuracy_pct is None else -part.min_accuracy_pct)
