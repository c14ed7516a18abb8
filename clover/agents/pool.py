"""The instances of one node and the requests in work on them: who is idle, who is next, how busy it all is."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from clover.agents.instance import Instance
from clover.core.application import ServiceModel
from clover.core.clock import Clock
from clover.core.configuration import InstanceKind
from clover.core.contention import MeanBusy
from clover.core.dispatch import (
    SHARE_SLACK_REQUESTS,
    Demand,
    DispatchRule,
    IdleInstance,
    ahead,
    choose,
    soonest_busy,
)
from clover.core.fair_share import FairShare
from clover.serving.port import Worker
from mig.device import GpuInstance


class InstancePool:
    """All live instances of a node.

    Args:
        model: For expected service times and accuracies.
        clock: Wall time.
    """

    def __init__(self, model: ServiceModel, clock: Clock) -> None:
        self._model = model
        self._clock = clock
        self._instances: dict[int, Instance] = {}
        self._next_key = 0
        self._rule = DispatchRule()
        self._begun_under_rule: Counter[InstanceKind] = Counter()
        self._fair = FairShare(weight=1.0)
        self._busy = 0
        self._mean_busy = MeanBusy(clock.now_s())
        #: Requests begun since the start of the agent, by kind.
        self.begun: Counter[InstanceKind] = Counter()
        #: Set whenever an instance may have become able to take a request, or no longer is.
        self.changed = asyncio.Event()
        #: Called then as well.
        self.listener: Callable[[], None] = lambda: None
        #: How many requests an instance may begin together.
        self.batch_of: Callable[[Instance], int] = lambda _: 1
        #: How many more may yet arrive to join the batch that an instance waits to begin.
        self.awaited_by: Callable[[Instance], int] = lambda _: 0

    # --- members

    def add(self, gpu: int, device: GpuInstance, kind: InstanceKind, worker: Worker) -> Instance:
        """Take in a ready instance."""
        self._cut_mean()
        instance = Instance(
            key=self._next_key,
            gpu=gpu,
            device=device,
            kind=kind,
            worker=worker,
            phase="idle",
            idle_since_s=self._clock.now_s(),
            accuracy_pct=self._model.application.variant(kind.variant).accuracy_pct,
        )
        self._next_key += 1
        self._instances[instance.key] = instance
        self._news()
        return instance

    def remove(self, instance: Instance) -> None:
        """Forget an instance; its request, if any, is the caller's."""
        self._cut_mean()
        self._instances.pop(instance.key, None)
        instance.drained.set()

    async def drain(self, instance: Instance) -> None:
        """Give an instance nothing new, wait until it is done, and forget it.

        If the wait is cancelled the instance stays in the pool, draining.
        """
        if instance.phase == "idle":
            instance.drained.set()
        instance.phase = "draining" if instance.phase in {"idle", "busy"} else instance.phase
        await instance.drained.wait()
        self.remove(instance)

    def on_gpu(self, gpu: int) -> list[Instance]:
        """Return the instances of one GPU by placement."""
        return sorted((i for i in self._instances.values() if i.gpu == gpu), key=lambda i: i.device.placement.start)

    def __iter__(self) -> Iterator[Instance]:
        return iter(list(self._instances.values()))

    def __len__(self) -> int:
        return len(self._instances)

    # --- dispatch

    def set_rule(self, rule: DispatchRule) -> None:
        """Put a dispatch rule in force; counts for shares begin anew."""
        self._rule = rule
        self._begun_under_rule.clear()
        self._fair = FairShare(weight=rule.weight)
        self._news()

    @property
    def fair_share(self) -> FairShare:
        """Where this node stands against its part of the fleet's requests under the rule in force."""
        return self._fair

    @property
    def must_wait(self) -> bool:
        """Whether this node is so far ahead of its part that new requests are left to others."""
        return self._fair.must_wait(self.begun_under_rule)

    @property
    def begun_under_rule(self) -> int:
        """Requests begun since the rule came into force."""
        return self._begun_under_rule.total()

    @property
    def credits(self) -> int:
        """How many instances are idle."""
        return sum(1 for instance in self._instances.values() if instance.phase == "idle")

    def offered(self, *, patient: bool = True) -> list[float]:
        """Return the accuracies, in %, of the idle instances that may take a request now, once for each they may take.

        Under shares a kind that is ahead of its own offers nothing, unless `patient` is False: requests have waited.
        """
        shares, begun = self._rule.shares, self.begun_under_rule
        held = patient and self._rule.name == "shares"
        found: list[float] = []
        for instance in self._instances.values():
            places = self.batch_of(instance) if instance.phase == "idle" else self.awaited_by(instance)
            if not (held and ahead(instance.kind, self._begun_under_rule, shares, begun) > SHARE_SLACK_REQUESTS):
                found += [instance.accuracy_pct] * places
        return found

    def room_of(self, instance: Instance) -> int:
        """Return how many more requests may join the batch that an instance is about to begin."""
        return instance.room if instance.phase == "busy" else 0

    def _news(self) -> None:
        self.changed.set()
        self.listener()

    @property
    def live(self) -> int:
        """How many instances serve, or will take requests again when they are done with theirs."""
        return sum(1 for instance in self._instances.values() if instance.phase in {"idle", "busy"})

    @property
    def in_work(self) -> int:
        """How many instances work on requests."""
        return self._busy

    def choose(self, demand: Demand) -> Instance | None:
        """Return the instance that the rule gives the next request to, or None if it shall wait."""
        rho = self.contention()
        free = [instance for instance in self._instances.values() if instance.phase == "idle"]
        mean_ms = {kind: self._model.mean_ms(kind.variant, kind.profile, rho) for kind in {one.kind for one in free}}
        idle = [
            IdleInstance(
                key=instance.key,
                kind=instance.kind,
                idle_since_s=instance.idle_since_s,
                mean_service_ms=mean_ms[instance.kind],
                accuracy_pct=instance.accuracy_pct,
            )
            for instance in free
        ]
        if self._rule.hold_back:
            demand = self._with_busy(demand, rho)
        chosen = choose(idle, self._begun_under_rule, self._rule, demand)
        return None if chosen is None else self._instances[chosen.key]

    def _with_busy(self, demand: Demand, rho: float) -> Demand:
        """Add what the busy instances that may answer promise."""
        least = -math.inf if demand.min_accuracy_pct is None else demand.min_accuracy_pct
        busy = Counter(
            instance.kind
            for instance in self._instances.values()
            if instance.phase == "busy" and self._model.application.variant(instance.kind.variant).accuracy_pct >= least
        )
        wait_ms, service_ms = soonest_busy(
            (self._model.mean_ms(kind.variant, kind.profile, rho), count) for kind, count in busy.items()
        )
        return replace(demand, expected_wait_ms=wait_ms, fastest_busy_ms=service_ms)

    def begin(self, instance: Instance) -> None:
        """Mark an instance as working on a request."""
        self._cut_mean()
        self._busy += 1
        instance.phase = "busy"
        self._count_begun(instance)

    def join(self, instance: Instance) -> None:
        """Count a request that joins the batch which an instance is about to begin."""
        instance.room -= 1
        self._count_begun(instance)

    def _count_begun(self, instance: Instance) -> None:
        self.begun[instance.kind] += 1
        self._begun_under_rule[instance.kind] += 1

    def end(self, instance: Instance, busy_s: float, *, gone: bool = False, requests: int = 1) -> None:
        """Mark its requests as done, or its worker as `gone` under them: the instance then takes nothing more."""
        self._cut_mean()
        self._busy -= 1
        instance.room = 0
        instance.served += requests
        instance.busy_s += busy_s
        instance.idle_since_s = self._clock.now_s()
        if instance.phase == "draining":
            instance.drained.set()
        elif instance.phase == "failed":
            self.remove(instance)
        elif gone:
            instance.gone = True
            self.fail(instance)
            self.remove(instance)
        elif instance.phase == "busy":
            instance.phase = "idle"
            self._news()

    def fail(self, instance: Instance) -> None:
        """Mark an instance whose worker is gone; it takes nothing and counts as drained."""
        instance.phase = "failed"
        instance.drained.set()

    # --- contention

    def contention(self) -> float:
        """Return the running mean of the busy fraction of live instances (rho of the performance model)."""
        self._cut_mean()
        return self._mean_busy.fraction

    def _cut_mean(self) -> None:
        self._mean_busy.cut(self._clock.now_s(), busy=self._busy, live=len(self._instances))
