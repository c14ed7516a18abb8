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

from clover.core.dispatch import SHARE_PATIENCE_S, SHARE_SLACK_REQUESTS, DispatchRule
from clover.plan.engines import Begun, Requests
from clover.plan.traffic import RequestClass

_INFINITY = float("inf")
#: Longer than the patience by less than anybody could measure, so that "longer than" holds when it is asked.
PATIENCE_ENDS_S = SHARE_PATIENCE_S + 1e-9


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
        self._able = able
        self._by_share, self._by_idleness = crew.rule.name == "shares", crew.rule.name == "longest_idle"
        self._hold_back = crew.rule.hold_back
        self._size = [len(numbers) for numbers in crew.instances]
        self._accuracy = crew.accuracy_pct
        self._shares = crew.shares
        self.set_means([0.0] * len(crew.instances))

    def set_means(self, mean_s: Sequence[float]) -> None:
        """Set the mean service time of each kind, and put the kinds in the order in which the rule prefers them."""
        self._mean_s = mean_s
        keys = [
            (-accuracy if self.rule.name == "accurate" else 0.0, mean)
            for accuracy, mean in zip(self._accuracy, mean_s, strict=True)
        ]
        ranked = sorted(range(len(keys)), key=keys.__getitem__)
        self._order = [[k for k in ranked if k in able] for able in self._able]
        # Kinds that the rule cannot tell apart share a turn: the longest idle of all of them goes first.
        self._ties = len(set(keys)) < len(keys)
        self._keys = keys

    def choose(self, part: int, waited_s: float) -> int:
        """Return the kind whose longest idle instance takes a request of a class, or -1; as core's `choose`."""
        if self._by_share:
            return self._least_ahead(part, waited_s)
        idle = self.idle
        if self._by_idleness:
            candidates = [k for k in self._able[part] if idle[k]]
            if len(candidates) > 1:
                return min(candidates, key=lambda k: idle[k][0])
            return candidates[0] if candidates else -1
        order = self._order[part]
        for best in order:
            if idle[best]:
                break
        else:
            return -1
        if self._ties:
            best = min((k for k in order if idle[k]), key=lambda k: (self._keys[k], idle[k][0]))
        # The fastest kind of all is never sooner done elsewhere.
        if self._hold_back and best != order[0] and self._sooner_elsewhere(order, best):
            return -1
        return best

    def _least_ahead(self, part: int, waited_s: float) -> int:
        served, shares, begun, idle = self.served, self._shares, self.begun, self.idle
        best, least = -1, _INFINITY
        for k in self._able[part]:
            if idle[k]:
                ahead = served[k] - shares[k] * begun
                if ahead < least or (ahead == least and idle[k][0] < idle[best][0]):
                    best, least = k, ahead
        return best if least <= SHARE_SLACK_REQUESTS or waited_s > SHARE_PATIENCE_S else -1

    def _sooner_elsewhere(self, order: Sequence[int], best: int) -> bool:
        """Whether a busy kind promises to be done sooner; only faster ones, which come first, can."""
        # What `soonest_busy` finds, without asking those that cannot win.
        mean_s, mean = self._mean_s, self._mean_s[best]
        for k in order:
            if mean_s[k] >= mean:
                return False
            busy = self._size[k] - len(self.idle[k])
            if busy and mean_s[k] / busy + mean_s[k] < mean:
                return True
        return False

    def take(self, kind: int) -> int:
        """Begin a request on the longest idle instance of a kind; return its number."""
        self.idle_count -= 1
        self.served[kind] += 1
        self.begun += 1
        return self.idle[kind].popleft()[1]


class EventEngine:
    """Events in order of time: arrivals, instances that become free, patience that runs out."""

    def __init__(self, crews: Sequence[Crew], classes: Sequence[RequestClass]) -> None:
        self._crews = crews
        self._agents = [_Agent(crew, [_able(crew, part) for part in classes]) for crew in crews]
        self._home = {
            i: (name, agent, idle)
            for name, (agent, crew) in enumerate(zip(self._agents, crews, strict=True))
            for numbers, idle in zip(crew.instances, agent.idle, strict=True)
            for i in numbers
        }
        self._order = sorted(range(len(classes)), key=lambda part: _strictness(classes[part]))
        self._queues = [deque[tuple[float, int, float, float]]() for _ in classes]
        self._waiting = 0
        self._turn = OrderedDict.fromkeys(range(len(crews)))
        self._several = len(crews) > 1
        self._patient = any(crew.rule.name == "shares" for crew in crews)
        self._busy: list[tuple[float, int]] = []
        self._now = 0.0
        self._host: list[float] = []
        self._gpu: list[float] = []
        self._begun: list[tuple[int, float, int]] = []

    def set_times(self, host_s: Sequence[float], gpu_s: Sequence[float]) -> None:
        """Set the mean parts of the service time by instance, from now on."""
        self._host, self._gpu = list(host_s), list(gpu_s)
        for agent, crew in zip(self._agents, self._crews, strict=True):
            agent.set_means([host_s[numbers[0]] + gpu_s[numbers[0]] for numbers in crew.instances])

    def run(self, requests: Requests) -> Begun:
        """Take the next requests; return those that have begun."""
        numbers = range(requests.first, requests.first + len(requests.arrival_s))
        parts: list[int] = requests.part.tolist()
        busy = self._busy
        rows = zip(
            numbers,
            requests.arrival_s.tolist(),
            requests.host.tolist(),
            requests.gpu.tolist(),
            parts,
            strict=True,
        )
        for number, arrival, host, gpu, part in rows:
            if self._waiting:
                self._advance(arrival)
            else:
                while busy and busy[0][0] <= arrival:
                    self._free(heappop(busy))
            self._now = arrival
            if self._queues[part] or not self._place(part, number, arrival, host, gpu):
                self._queues[part].append((arrival, number, host, gpu))
                self._waiting += 1
            elif self._waiting:
                # A request that has begun changes what is ahead of its share, for another class too.
                self._dispatch()
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
        name, agent, idle = self._home[entry[1]]
        idle.append(entry)
        agent.idle_count += 1
        if agent.idle_count == 1:
            self._turn[name] = None

    def _patience_ends(self) -> float:
        """Return when the next oldest request of a class has waited for too long, if not yet now."""
        ends = (queue[0][0] + PATIENCE_ENDS_S for queue in self._queues if queue)
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
        now, turn = self._now, self._turn
        for name in turn:
            agent = self._agents[name]
            kind = agent.choose(part, now - arrival)
            if kind < 0:
                continue
            i = agent.take(kind)
            finish = now + host * self._host[i] + gpu * self._gpu[i]
            heappush(self._busy, (finish, i))
            self._begun.append((number, finish, i))
            if not agent.idle_count:
                del turn[name]
            elif self._several:
                turn.move_to_end(name)
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
