"""How requests are best handed out on GPUs that stay what they are: the grid is followed without any change of MIG.

Given the present configuration, `best_dispatch` compares longest-idle, dispatch by accuracy, and shares from a linear
program over the flows of the instances that are there; what it returns is certified by simulation with these very
nodes. Pure: everything is in the arguments, and a caller that keeps `proofs` has nothing simulated twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from clover.core.configuration import Configuration
from clover.core.dispatch import DispatchRule
from clover.core.objective import LATE_LIMIT
from clover.core.queueing import Evaluation, idle_power_w
from clover.plan.asking import Asked
from clover.plan.certify import certify
from clover.plan.points import Fleetwide
from clover.plan.problem import Problem
from clover.plan.prover import Proofs, Seen
from clover.plan.shares import Room, Shares, SharesMemory
from clover.plan.traffic import Traffic, agents_of

#: How busy a kind may be and how many services may be too long, by which shares leave room for waiting.
_UTILISATIONS, _LATE = (0.95, 0.85, 0.75, 0.65, 0.5), (LATE_LIMIT, 0.045, 0.035, 0.02)
_ROOMS = tuple(Room(utilisation=busy, late=late) for busy, late in itertools.product(_UTILISATIONS, _LATE))
#: Shares are tried until so many have failed.
_MOST_FAILURES = 4
#: What shares must score above a rule that needs none.
_WORTH_MORE = 5e-5
#: Certificates that are remembered; beyond, the oldest are forgotten.
_MOST_PROOFS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchPlan:
    """A certified way to dispatch on a configuration.

    Attributes:
        dispatch: Rule of each serving node.
        name: Of the rule.
        evaluation: What the certificate's simulation saw.
        score: Of what was asked.
        late_upper: Certified upper bound of P(latency > SLA).
        simulated: How many certificates had to be made for this answer.
    """

    dispatch: Mapping[str, DispatchRule]
    name: str
    evaluation: Evaluation
    score: float
    late_upper: float
    simulated: int


def best_dispatch(
    problem: Problem, *, seed: int = 0, proofs: Proofs | None = None, memory: SharesMemory | None = None
) -> DispatchPlan | None:
    """Return the best certified dispatch for what is asked on the present configuration, None if none keeps the SLA.

    Args:
        problem: With `present`, the configuration that stays.
        seed: Of the certificates.
        proofs: Certificates that are known, by instances of each node, load and rule; new ones are added. They hold for
            all tables that differ in nothing but idle, parked and off watts.
        memory: Shares that are known; likewise.

    Raises:
        ValueError: There is no present configuration, or it serves nobody.
    """
    if problem.present is None or not problem.present.fleet.instances:
        raise ValueError(f"present = {problem.present}: expected a configuration that serves")
    return _Search(
        problem,
        problem.present,
        seed,
        {} if proofs is None else proofs,
        SharesMemory() if memory is None else memory,
    ).best()


class _Search:
    def __init__(
        self, problem: Problem, present: Configuration, seed: int, proofs: Proofs, memory: SharesMemory
    ) -> None:
        self._problem, self._present, self._seed, self._proofs = problem, present, seed, proofs
        self._memory = memory.of(problem, present)
        self._asked: Asked = problem.asked(problem.baseline())
        self._idle_w = idle_power_w(problem.model, present.fleet)
        # Which GPU of a node an instance is on changes nothing.
        self._nodes = tuple(agent.kinds for agent in agents_of(present))
        self._simulated = 0

    def best(self) -> DispatchPlan | None:
        """Try the rules that need no shares, and then shares that promise more than the best of them."""
        several = len(self._present.fleet.kinds) > 1
        rules = (Fleetwide(), Fleetwide(name="accurate")) if several else (Fleetwide(),)
        best = max(filter(None, map(self._certified, rules)), key=lambda plan: plan.score, default=None)
        if several:
            best = self._better_shares(best)
        return None if best is None else replace(best, simulated=self._simulated)

    def _better_shares(self, best: DispatchPlan | None) -> DispatchPlan | None:
        failures = 0
        for promised, shares in sorted(self._shares(), key=lambda item: -item[0]):
            if failures == _MOST_FAILURES or (best is not None and promised <= best.score + _WORTH_MORE):
                break
            found = self._certified(shares.rule)
            failures += found is None
            if found is not None and (best is None or found.score > best.score + _WORTH_MORE):
                return found
        return best

    def _shares(self) -> Iterator[tuple[float, Shares]]:
        """Give shares with what they promise, the same ones only once."""
        idle_j = self._idle_w / self._problem.rate_rps
        seen: set[tuple[object, ...]] = set()
        for room in _ROOMS:
            found = self._memory.best(self._asked, room, idle_j)
            if found is not None and found.key not in seen:
                seen.add(found.key)
                yield self._asked.score(found.accuracy_pct, found.dynamic_j + idle_j), found

    def _certified(self, rule: Fleetwide) -> DispatchPlan | None:
        problem, present = self._problem, self._present
        key = (self._nodes, problem.rate_rps, problem.sla_ms, self._seed, rule.key)
        if key not in self._proofs:
            while len(self._proofs) >= _MOST_PROOFS:
                del self._proofs[next(iter(self._proofs))]
            self._proofs[key] = self._see(rule.by_node(present))
            self._simulated += 1
        seen = self._proofs[key]
        evaluation = replace(seen.evaluation, idle_power_w=self._idle_w)
        if not seen.certified or not _keeps(self._asked, evaluation):
            return None
        return DispatchPlan(
            dispatch=rule.by_node(present),
            name=rule.name,
            evaluation=evaluation,
            score=self._asked.score(evaluation.accuracy_pct, evaluation.energy_j_per_request),
            late_upper=seen.late_upper,
            simulated=0,
        )

    def _see(self, dispatch: Mapping[str, DispatchRule]) -> Seen:
        problem = self._problem
        found = certify(
            problem.model,
            agents_of(self._present, dispatch),
            Traffic(rate_rps=problem.rate_rps),
            sla_ms=problem.sla_ms,
            seed=self._seed,
        )
        return Seen(
            certified=found.certified,
            late_upper=found.late_upper,
            late_fraction=found.late_fraction,
            evaluation=found.simulation.evaluation,
        )


def _keeps(asked: Asked, seen: Evaluation) -> bool:
    least, most = asked.least_accuracy_pct, asked.most_energy_j
    return (least is None or seen.accuracy_pct >= least) and (most is None or seen.energy_j_per_request <= most)


def shares_of(
    problem: Problem,
    present: Configuration,
    asked: Asked,
    *,
    utilisation: float,
    late: float,
    memory: SharesMemory | None = None,
) -> tuple[float, Fleetwide] | None:
    """Return what the best shares promise if nobody waits, and these; None if there are none.

    Args:
        problem: Load and SLA.
        present: What the GPUs are.
        asked: What is to be maximised and kept.
        utilisation: Largest busy fraction of any kind.
        late: Largest fraction of requests whose service alone is longer than the SLA.
        memory: Shares that are known of the problem's table; new ones are added.
    """
    idle_j = idle_power_w(problem.model, present.fleet) / problem.rate_rps
    known = (memory or SharesMemory()).of(problem, present)
    found = known.best(asked, Room(utilisation=utilisation, late=late), idle_j)
    return None if found is None else (asked.score(found.accuracy_pct, found.dynamic_j + idle_j), found.rule)
