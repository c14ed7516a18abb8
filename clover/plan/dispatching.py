"""How requests are best handed out on GPUs that stay what they are: the grid is followed without any change of MIG.

Given the present configuration, `best_dispatch` compares longest-idle, dispatch by accuracy, and shares from a linear
program over the flows of the instances that are there; what it returns is certified by simulation with these very
nodes. Pure: everything is in the arguments, and a caller that keeps `proofs` has nothing simulated twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import highspy
import numpy as np

from clover.core.closed_form import Floats, KindArrays, service_tail
from clover.core.configuration import Configuration
from clover.core.dispatch import DispatchRule
from clover.core.objective import LATE_LIMIT
from clover.core.queueing import Evaluation, idle_power_w
from clover.plan.asking import Asked
from clover.plan.certify import certify
from clover.plan.points import Fleetwide
from clover.plan.problem import Problem
from clover.plan.program import QuietHighs
from clover.plan.prover import Proofs, Seen
from clover.plan.traffic import Traffic, agents_of

#: How busy a kind may be and how many services may be too long, by which shares leave room for waiting.
_UTILISATIONS, _LATE = (0.95, 0.85, 0.75, 0.65, 0.5), (LATE_LIMIT, 0.045, 0.035, 0.02)
#: Steps to the fixed point of contention; one goes a good way into its neighbourhood.
_ROUNDS = 4
#: Shares are tried until so many have failed.
_MOST_FAILURES = 4
#: What shares must score above a rule that needs none.
_WORTH_MORE = 5e-5


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


def best_dispatch(problem: Problem, *, seed: int = 0, proofs: Proofs | None = None) -> DispatchPlan | None:
    """Return the best certified dispatch for what is asked on the present configuration, None if none keeps the SLA.

    Args:
        problem: With `present`, the configuration that stays.
        seed: Of the certificates.
        proofs: Certificates that are known, by configuration, load and rule; new ones are added.

    Raises:
        ValueError: There is no present configuration, or it serves nobody.
    """
    if problem.present is None or not problem.present.fleet.instances:
        raise ValueError(f"present = {problem.present}: expected a configuration that serves")
    return _Search(problem, problem.present, seed, {} if proofs is None else proofs).best()


class _Search:
    def __init__(self, problem: Problem, present: Configuration, seed: int, proofs: Proofs) -> None:
        self._problem, self._present, self._seed, self._proofs = problem, present, seed, proofs
        self._asked: Asked = problem.asked(problem.baseline())
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
        for promised, rule in sorted(self._shares(), key=lambda item: -item[0]):
            if failures == _MOST_FAILURES or (best is not None and promised <= best.score + _WORTH_MORE):
                break
            found = self._certified(rule)
            failures += found is None
            if found is not None and (best is None or found.score > best.score + _WORTH_MORE):
                return found
        return best

    def _shares(self) -> Iterator[tuple[float, Fleetwide]]:
        """Give shares with what they promise, the same ones only once."""
        seen: set[tuple[object, ...]] = set()
        for utilisation, late in itertools.product(_UTILISATIONS, _LATE):
            found = shares_of(self._problem, self._present, self._asked, utilisation=utilisation, late=late)
            if found is not None and found[1].key not in seen:
                seen.add(found[1].key)
                yield found

    def _certified(self, rule: Fleetwide) -> DispatchPlan | None:
        problem, present = self._problem, self._present
        dispatch = rule.by_node(present)
        key = (present, problem.rate_rps, problem.sla_ms, self._seed, rule.key)
        if key not in self._proofs:
            self._proofs[key] = self._see(dispatch)
            self._simulated += 1
        seen = self._proofs[key]
        evaluation = seen.evaluation
        if not seen.certified or not _keeps(self._asked, evaluation):
            return None
        return DispatchPlan(
            dispatch=dispatch,
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
            idle_power_w=idle_power_w(problem.model, self._present.fleet),
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
    problem: Problem, present: Configuration, asked: Asked, *, utilisation: float, late: float
) -> tuple[float, Fleetwide] | None:
    """Return what the best shares promise if nobody waits, and these; None if there are none.

    Args:
        problem: Load and SLA.
        present: What the GPUs are.
        asked: What is to be maximised and kept.
        utilisation: Largest busy fraction of any kind.
        late: Largest fraction of requests whose service alone is longer than the SLA.
    """
    fleet = present.fleet
    arrays = KindArrays.of(problem.model, [kind for kind, _ in fleet.kinds])
    counts = np.array([float(n) for _, n in fleet.kinds])
    idle_j = idle_power_w(problem.model, fleet) / problem.rate_rps
    rho, shares = 0.3, None
    for _ in range(_ROUNDS):
        shares = _program(
            problem, asked.tightened(), arrays, counts, rho, utilisation=utilisation, late=late, idle_j=idle_j
        )
        if shares is None:
            return None
        busy = problem.rate_rps * float(shares @ arrays.mean_s(np.array([rho]))[0])
        rho = min(busy / float(counts.sum()), 1.0)
    if shares is None:
        return None
    energy_j = float(shares @ arrays.dynamic_j) * (1.0 - arrays.energy_contention * rho) + idle_j
    rule = Fleetwide(name="shares", shares=dict(zip(arrays.kinds, shares.tolist(), strict=True)))
    return asked.score(float(shares @ arrays.accuracy_pct), energy_j), rule


def _program(
    problem: Problem,
    asked: Asked,
    arrays: KindArrays,
    counts: Floats,
    rho: float,
    *,
    utilisation: float,
    late: float,
    idle_j: float,
) -> Floats | None:
    """Solve for the shares, (K,), at a given contention."""
    service = arrays.mean_s(np.array([rho]))[0]
    dynamic = arrays.dynamic_j * (1.0 - arrays.energy_contention * rho)
    number, infinite = len(counts), highspy.kHighsInf
    tails = service_tail(arrays, np.arange(number), np.full(number, rho), np.full((number, 1), problem.sla_ms / 1e3))
    rows: list[tuple[Floats, float, float]] = [
        (np.ones(number), 1.0, 1.0),
        (tails[:, 0], -infinite, late),
        (arrays.accuracy_pct, asked.least_accuracy_pct or -infinite, infinite),
        (dynamic, -infinite, infinite if asked.most_energy_j is None else asked.most_energy_j - idle_j),
    ]
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = number, len(rows)
    program.sense_ = highspy.ObjSense.kMaximize
    program.col_cost_ = asked.per_accuracy_pct * arrays.accuracy_pct - asked.per_energy_j * dynamic
    program.col_lower_ = np.zeros(number)
    program.col_upper_ = utilisation * counts / service / problem.rate_rps
    program.row_lower_ = np.array([low for _, low, _ in rows])
    program.row_upper_ = np.array([high for _, _, high in rows])
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = np.arange(len(rows) + 1) * number
    program.a_matrix_.index_ = np.tile(np.arange(number), len(rows))
    program.a_matrix_.value_ = np.concatenate([row for row, _, _ in rows])
    solver = QuietHighs()
    solver.setOptionValue("threads", 1)
    solver.passModel(program)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    shares = np.maximum(np.array(solver.getSolution().col_value), 0.0)
    return shares / shares.sum()
