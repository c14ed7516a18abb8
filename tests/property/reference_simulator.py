"""A slow simulator that asks `choose` itself about every request: what the fast engines are compared with."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

from clover.core.application import ServiceModel
from clover.core.configuration import InstanceKind
from clover.core.dispatch import SHARE_PATIENCE_S, Demand, DispatchRule, IdleInstance, choose, soonest_busy
from clover.plan.traffic import AgentFleet, RequestClass


@dataclass
class _Agent:
    rule: DispatchRule
    kinds: dict[int, InstanceKind]
    idle: dict[int, float]
    busy: dict[int, float] = field(default_factory=dict)
    served: Counter[InstanceKind] = field(default_factory=Counter)


@dataclass(frozen=True)
class Arrival:
    at_s: float
    host: float
    gpu: float
    part: int


class Reference:
    """Everything by linear search; time goes from event to event."""

    def __init__(
        self, model: ServiceModel, agents: list[AgentFleet], classes: tuple[RequestClass, ...], rho: list[float]
    ) -> None:
        self.model, self.classes, self.rho = model, classes, rho
        numbers = itertools.count()
        # Instances are numbered agent by agent and kind by kind, kinds sorted: as the simulator does.
        self.agents = []
        for agent in agents:
            kinds = {next(numbers): kind for kind, count in sorted(agent.kinds) for _ in range(count)}
            self.agents.append(_Agent(rule=agent.rule, kinds=kinds, idle=dict.fromkeys(kinds, 0.0)))
        self.turn = list(range(len(agents)))
        self.waiting: list[tuple[int, Arrival]] = []
        self.now = 0.0
        self.result: dict[int, tuple[float, int]] = {}

    def run(self, arrivals: list[Arrival]) -> dict[int, tuple[float, int]]:
        """Return when each request is done, and where."""
        for number, arrival in enumerate(arrivals):
            self._until(arrival.at_s)
            self.now = arrival.at_s
            self.waiting.append((number, arrival))
            self._dispatch(arrival.at_s)
        self._until(float("inf"))
        return self.result

    def _until(self, end_s: float) -> None:
        while True:
            events = [finish for agent in self.agents for finish in agent.busy.values()]
            if any(agent.rule.name == "shares" for agent in self.agents):
                # Asked again when a request has waited for longer than the patience.
                ends = [arrival.at_s + SHARE_PATIENCE_S + 1e-9 for _, arrival in self.waiting]
                events += [end for end in ends if end > self.now]
            if not events or min(events) > end_s:
                return
            self.now = min(events)
            for name, agent in enumerate(self.agents):
                for key, finish in list(agent.busy.items()):
                    if finish <= self.now:
                        agent.idle[key] = agent.busy.pop(key)
                        if len(agent.idle) == 1:
                            self.turn.append(name)
            self._dispatch(self.now)

    def _dispatch(self, now: float) -> None:
        while self._dispatch_one(now):
            pass

    def _dispatch_one(self, now: float) -> bool:
        def strictness(entry: tuple[int, Arrival]) -> tuple[bool, float, int]:
            part = self.classes[entry[1].part]
            least = part.min_accuracy_pct
            return (not part.high_priority, float("inf") if least is None else -least, entry[0])

        seen: set[int] = set()
        for number, arrival in sorted(self.waiting, key=strictness):
            if arrival.part in seen:
                continue
            seen.add(arrival.part)
            for name in self.turn:
                key = self._ask(self.agents[name], self.rho[name], arrival, now)
                if key is not None:
                    self._begin(name, key, number, arrival, now)
                    return True
        return False

    def _ask(self, agent: _Agent, rho: float, arrival: Arrival, now: float) -> int | None:
        least = self.classes[arrival.part].min_accuracy_pct

        def accuracy(kind: InstanceKind) -> float:
            return self.model.application.variant(kind.variant).accuracy_pct

        idle = [
            IdleInstance(
                key=key,
                kind=agent.kinds[key],
                idle_since_s=since,
                mean_service_ms=self.model.mean_ms(agent.kinds[key].variant, agent.kinds[key].profile, rho),
                accuracy_pct=accuracy(agent.kinds[key]),
            )
            for key, since in agent.idle.items()
        ]
        busy = Counter(agent.kinds[key] for key in agent.busy)
        wait, service = soonest_busy(
            (self.model.mean_ms(kind.variant, kind.profile, rho), count)
            for kind, count in busy.items()
            if least is None or accuracy(kind) >= least
        )
        demand = Demand(
            oldest_wait_s=now - arrival.at_s,
            min_accuracy_pct=least,
            expected_wait_ms=wait,
            fastest_busy_ms=service,
        )
        chosen = choose(idle, agent.served, agent.rule, demand)
        return None if chosen is None else chosen.key

    def _begin(self, name: int, key: int, number: int, arrival: Arrival, now: float) -> None:
        agent = self.agents[name]
        kind = agent.kinds[key]
        host = self.model.host_ms(kind.variant, self.rho[name]) / 1e3
        gpu = self.model.gpu_ms(kind.variant, kind.profile) / 1e3
        finish = now + arrival.host * host + arrival.gpu * gpu
        del agent.idle[key]
        agent.busy[key] = finish
        agent.served[kind] += 1
        self.waiting.remove((number, arrival))
        self.result[number] = (finish, key)
        self.turn.remove(name)
        if agent.idle:
            self.turn.append(name)
