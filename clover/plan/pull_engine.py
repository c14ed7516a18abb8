"""The loops of the simulator for any node agents and for shares, as long as all requests are alike.

Agents pull as in `clover.plan.event_engine`, which is five times as slow because it also knows classes, hold-back and
requests that overtake each other. Here requests begin in the order in which they arrived. Without shares an agent that
has an idle instance takes what it is offered, so that nobody waits while an instance is idle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush, heapreplace

from clover.core.dispatch import SHARE_PATIENCE_S, SHARE_SLACK_REQUESTS
from clover.plan.engines import Begun, Requests, in_order, nothing_begun
from clover.plan.event_engine import PATIENCE_ENDS_S, Crew

_INFINITY = float("inf")
_Queue = deque[tuple[float, int]]
_NOBODY: _Queue = deque()


class PullEngine:
    """Agents whose rules take whatever they are offered: longest-idle, `accurate`, `fastest` without hold-back.

    Args:
        crews: Instances are numbered from 0.
    """

    def __init__(self, crews: Sequence[Crew]) -> None:
        self._crews = crews
        instances = sum(len(numbers) for crew in crews for numbers in crew.instances)
        self._agent, self._kind = [0] * instances, [0] * instances
        for agent, crew in enumerate(crews):
            for kind, numbers in enumerate(crew.instances):
                for i in numbers:
                    self._agent[i], self._kind[i] = agent, kind
        #: Idle instances of each agent in queues, those that are preferred first; which of them an instance joins.
        self._idle: list[list[_Queue]] = [
            [deque(sorted((0.0, i) for numbers in crew.instances for i in numbers))] for crew in crews
        ]
        self._queue: list[_Queue] = [self._idle[agent][0] for agent in self._agent]
        self._idle_count = [len(queues[0]) for queues in self._idle]
        self._turn = deque(range(len(crews)))
        #: The last one never becomes free: so that there always is a next one.
        self._busy: list[tuple[float, int]] = [(_INFINITY, -1)]
        self._host: list[float] = []
        self._gpu: list[float] = []

    def set_times(self, host_s: Sequence[float], gpu_s: Sequence[float]) -> None:
        """Set the mean parts of the service time by instance, from now on."""
        self._host, self._gpu = list(host_s), list(gpu_s)
        for agent, crew in enumerate(self._crews):
            ranks = self._ranks(crew, [host_s[numbers[0]] + gpu_s[numbers[0]] for numbers in crew.instances])
            waiting = sorted(entry for queue in self._idle[agent] for entry in queue)
            queues: list[_Queue] = [deque() for _ in range(max(ranks) + 1)]
            self._idle[agent] = queues
            for rank, numbers in zip(ranks, crew.instances, strict=True):
                for i in numbers:
                    self._queue[i] = queues[rank]
            for entry in waiting:
                self._queue[entry[1]].append(entry)

    def _ranks(self, crew: Crew, mean_s: Sequence[float]) -> list[int]:
        """Return the rank of each kind; those that the rule cannot tell apart have the same."""
        if crew.rule.name == "longest_idle":
            return [0] * len(mean_s)
        by_accuracy = crew.rule.name == "accurate"
        keys = [(-a if by_accuracy else 0.0, mean) for a, mean in zip(crew.accuracy_pct, mean_s, strict=True)]
        place = {key: index for index, key in enumerate(sorted(set(keys)))}
        return [place[key] for key in keys]

    def run(self, requests: Requests) -> Begun:
        """Take the next requests; all of them begin."""
        busy, turn, idle, count = self._busy, self._turn, self._idle, self._idle_count
        agent_of, queue_of, host_s, gpu_s = self._agent, self._queue, self._host, self._gpu
        finishes: list[float] = []
        instances: list[int] = []
        for arrival, host, gpu in zip(
            requests.arrival_s.tolist(), requests.host.tolist(), requests.gpu.tolist(), strict=True
        ):
            while busy[0][0] <= arrival:
                entry = heappop(busy)
                i = entry[1]
                queue_of[i].append(entry)
                agent = agent_of[i]
                if not count[agent]:
                    turn.append(agent)
                count[agent] += 1
            if turn:
                agent = turn.popleft()
                for queue in idle[agent]:
                    if queue:
                        break
                i = queue.popleft()[1]  # pyright: ignore[reportPossiblyUnboundVariable] - who has a turn has an idle one
                count[agent] -= 1
                if count[agent]:
                    turn.append(agent)
                finish = arrival + host * host_s[i] + gpu * gpu_s[i]
                heappush(busy, (finish, i))
            else:
                start, i = busy[0]
                finish = start + host * host_s[i] + gpu * gpu_s[i]
                heapreplace(busy, (finish, i))
            finishes.append(finish)
            instances.append(i)
        return in_order(requests.first, finishes, instances)

    def drain(self) -> Begun:
        """Return nothing: nobody is left waiting."""
        return nothing_begun()


class SharesEngine(PullEngine):
    """Agents of which some dispatch by shares: requests may wait although an instance is idle."""

    def __init__(self, crews: Sequence[Crew]) -> None:
        super().__init__(crews)
        self._shares = [crew.shares if crew.rule.name == "shares" else None for crew in crews]
        self._served = [[0] * len(crew.instances) for crew in crews]
        self._begun = [0] * len(crews)
        self._waiting: deque[tuple[float, float, float]] = deque()
        self._now, self._first = 0.0, 0
        self._choose = self._chooser()

    def _ranks(self, crew: Crew, mean_s: Sequence[float]) -> list[int]:
        return list(range(len(mean_s))) if crew.rule.name == "shares" else super()._ranks(crew, mean_s)

    def run(self, requests: Requests) -> Begun:
        """Take the next requests; return those that have begun."""
        busy, turn, count, waiting = self._busy, self._turn, self._idle_count, self._waiting
        agent_of, queue_of, host_s, gpu_s = self._agent, self._queue, self._host, self._gpu
        choose = self._choose
        finishes: list[float] = []
        instances: list[int] = []
        for arrival, host, gpu in zip(
            requests.arrival_s.tolist(), requests.host.tolist(), requests.gpu.tolist(), strict=True
        ):
            if waiting:
                self._advance(arrival, finishes, instances)
            else:
                while busy[0][0] <= arrival:
                    entry = heappop(busy)
                    i = entry[1]
                    queue_of[i].append(entry)
                    agent = agent_of[i]
                    if not count[agent]:
                        turn.append(agent)
                    count[agent] += 1
            if waiting or (i := choose(0.0)) < 0:
                waiting.append((arrival, host, gpu))
                self._now = arrival
                continue
            finish = arrival + host * host_s[i] + gpu * gpu_s[i]
            heappush(busy, (finish, i))
            finishes.append(finish)
            instances.append(i)
        return self._results(finishes, instances)

    def drain(self) -> Begun:
        """Let all that still wait begin."""
        finishes: list[float] = []
        instances: list[int] = []
        self._advance(_INFINITY, finishes, instances)
        return self._results(finishes, instances)

    def _results(self, finishes: list[float], instances: list[int]) -> Begun:
        first, self._first = self._first, self._first + len(finishes)
        return in_order(first, finishes, instances)

    def _chooser(self) -> Callable[[float], int]:
        """Return what lets an agent begin a request that has waited so long: gives the instance, -1 if all shall wait.

        A closure: it is called for every request, and its variables are found faster than attributes.
        """
        turn, idle, idle_count, kind_of = self._turn, self._idle, self._idle_count, self._kind
        all_shares, all_served, all_begun = self._shares, self._served, self._begun

        def choose(waited_s: float) -> int:
            for agent in turn:
                shares, served = all_shares[agent], all_served[agent]
                if shares is None:
                    best = next(filter(None, idle[agent]))
                else:
                    begun, least, best = all_begun[agent], _INFINITY, _NOBODY
                    for queue, done, share in zip(idle[agent], served, shares):  # noqa: B905 - alike by construction
                        if queue:
                            ahead = done - share * begun
                            if ahead < least or (ahead == least and queue[0] < best[0]):
                                best, least = queue, ahead
                    if least > SHARE_SLACK_REQUESTS and waited_s <= SHARE_PATIENCE_S:
                        continue
                i = best.popleft()[1]
                served[kind_of[i]] += 1
                all_begun[agent] += 1
                left = idle_count[agent] = idle_count[agent] - 1
                if not left or len(turn) > 1:
                    turn.remove(agent)
                    if left:
                        turn.append(agent)
                return i
            return -1

        return choose

    def _advance(self, until: float, finishes: list[float], instances: list[int]) -> None:
        """Let time pass while requests wait: instances become free, patience runs out."""
        busy, waiting = self._busy, self._waiting
        while waiting or busy[0][0] <= until:
            free_at = busy[0][0]
            ends = waiting[0][0] + PATIENCE_ENDS_S if waiting else _INFINITY
            # Once it has run out, the oldest is offered again only when an instance becomes free.
            now = min(free_at, ends) if ends > self._now else free_at
            if now > until or now == _INFINITY:
                return
            self._now = now
            if free_at <= now:
                entry = heappop(busy)
                self._queue[entry[1]].append(entry)
                agent = self._agent[entry[1]]
                if not self._idle_count[agent]:
                    self._turn.append(agent)
                self._idle_count[agent] += 1
            while waiting and (i := self._choose(now - waiting[0][0])) >= 0:
                _, host, gpu = waiting.popleft()
                finish = now + host * self._host[i] + gpu * self._gpu[i]
                heappush(busy, (finish, i))
                finishes.append(finish)
                instances.append(i)
