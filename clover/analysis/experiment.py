"""Schemes x applications x traces x loads x lambda x parking, replayed hour by hour on the model; nothing is served.

Every row says what truly happens by simulation: P(late) and p95 of every plan come from simulated requests, whatever
the scheme believed. Random schemes run with many seeds; their row holds medians, and a spread tells the range. All is
deterministic for a seed except `seconds`, however many processes do the work.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from clover.analysis.cases import Case, problem_of, with_table
from clover.analysis.experiment_rows import Result
from clover.catalog import load_service
from clover.core.application import ServiceModel
from clover.core.intensity_trace import IntensityTrace
from clover.core.queueing import Evaluation
from clover.plan.counting import HOUR_S, Hour, Totals
from clover.plan.evaluator import LiveEvaluator, UniformEvaluator
from clover.plan.exact import ExactScheme
from clover.plan.following import LayoutKeeper
from clover.plan.problem import Answer, Problem, Scheme
from clover.plan.prover import Proofs
from clover.plan.replay import Evaluated, Replay
from clover.plan.rows import Row, row_of
from clover.plan.schemes import make_scheme
from clover.plan.search import SearchScheme
from clover.plan.uniform import OracleScheme, ParkingScheme, UniformSpace, best_static

#: Schemes that draw random configurations.
RANDOM_SCHEMES = frozenset({"blover", "clover", "clover_live"})
#: What is simulated of every plan.
SIMULATED_REQUESTS = 60_000
LEAST_SEEDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one process does at a time: one load of one application, with every trace and scheme.

    Attributes:
        application: By name; its shipped table is loaded by the process that does the task.
        park_w: Power of a parked GPU, None for the table's.
        case: Fleet, load, lambda and parking.
        traces: To replay.
        schemes: Names, `static` included.
        seeds: How many for random schemes.
        seed: The first of them.
        charge: Count changes and exploration; without it every hour is the steady state of its decision.
        simulated: Requests per plan, 0 for the closed form alone.
    """

    application: str
    case: Case
    traces: tuple[IntensityTrace, ...]
    schemes: tuple[str, ...]
    seeds: int = LEAST_SEEDS
    seed: int = 0
    charge: bool = True
    simulated: int = SIMULATED_REQUESTS
    park_w: float | None = None

    @property
    def model(self) -> ServiceModel:
        """Load application and table."""
        model = load_service(self.application, self.case.board)
        return model if self.park_w is None else with_table(model, parked_power_w=self.park_w)

    @property
    def rows(self) -> int:
        """How many rows it gives."""
        return len(self.traces) * len(self.schemes)


def hours_of(trace: IntensityTrace, rate_rps: float) -> list[Hour]:
    """Return the hours of a trace under a constant load."""
    return [Hour(rate_rps=rate_rps, intensity_g_per_kwh=value) for value in trace.values_g_per_kwh]


def run_all(
    tasks: Sequence[Task], *, processes: int = 1, tell: Callable[[int], None] = lambda _rows: None
) -> list[Result]:
    """Run tasks; results in the order of tasks, traces and schemes, whatever ends first.

    Args:
        tasks: What to do.
        processes: Side by side.
        tell: Hears how many more rows are done.
    """
    if processes <= 1 or len(tasks) <= 1:
        return [result for task in tasks for result in run_task(task, tell=tell)]
    results: dict[int, list[Result]] = {}
    with ProcessPoolExecutor(max_workers=min(processes, len(tasks))) as pool:
        running = {pool.submit(run_task, task): number for number, task in enumerate(tasks)}
        try:
            for done in as_completed(running):
                results[running[done]] = done.result()
                tell(tasks[running[done]].rows)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [result for number in range(len(tasks)) for result in results[number]]


def run_task(task: Task, *, tell: Callable[[int], None] = lambda _rows: None) -> list[Result]:
    """Run one task."""
    bench = Bench(task)
    results: list[Result] = []
    for trace in task.traces:
        for name in task.schemes:
            results.append(bench.result(name, trace))
            tell(1)
    return results


@dataclass(slots=True, kw_only=True, eq=False)
class Known:
    """What rows of one model, fleet, load and SLA share: nothing here depends on trace, lambda or seed.

    Attributes:
        model: Application and table.
        simulated, closed: Evaluations by simulation and by the closed form.
        measured: What live traffic said of configurations, by seed.
        evaluator: Remembers evaluations of uniform fleets.
        space: Uniform fleets.
        proofs: Certificates of `exact`.
        kept: Certificates of ways to dispatch on layouts that stay.
    """

    model: ServiceModel
    simulated: Evaluated = field(default_factory=Evaluated)
    closed: Evaluated = field(default_factory=Evaluated)
    measured: dict[tuple[object, ...], Evaluation] = field(default_factory=dict[tuple[object, ...], Evaluation])
    evaluator: UniformEvaluator = field(default_factory=UniformEvaluator)
    space: UniformSpace = field(default_factory=UniformSpace)
    proofs: Proofs = field(default_factory=Proofs)
    kept: Proofs = field(default_factory=Proofs)


class _Again:
    """Gives the answers of an earlier replay once more: what is decided does not depend on what is charged."""

    def __init__(self, name: str, answers: Sequence[Answer]) -> None:
        self._name, self._answers = name, iter(answers)

    @property
    def name(self) -> str:
        return self._name

    def plan(self, problem: Problem) -> Answer:
        del problem
        return next(self._answers)


class Bench:
    """One fleet and load: what its rows share are plans of `exact`, spaces, and evaluations.

    Args:
        task: What is to be done; `result` does it row by row.
        known: What other benches of the same model, fleet, load and SLA found out.
    """

    def __init__(self, task: Task, known: Known | None = None) -> None:
        self._task = task
        self._known = known or Known(model=task.model)
        self.problem: Problem = problem_of(self._known.model, task.case)
        self._oracle = OracleScheme(self._known.space)
        self._keeper = LayoutKeeper(seed=task.seed, proofs=self._known.kept)
        self._exact: ExactScheme | None = None
        self._answers: dict[tuple[str, str, int], Sequence[Answer]] = {}

    def result(self, name: str, trace: IntensityTrace, *, charge: bool | None = None, simulate: bool = True) -> Result:
        """Replay one scheme on one trace; `charge` overrides the task's, without `simulate` the closed form judges."""
        task = self._task
        count = task.seeds if name in RANDOM_SCHEMES else 1
        charged = task.charge if charge is None else charge
        requests = task.simulated if simulate else 0
        rows = [
            self._row(name, trace, seed, charge=charged, requests=requests)
            for seed in range(task.seed, task.seed + count)
        ]
        return Result.of(rows)

    def all_certified(self, trace: IntensityTrace) -> bool:
        """Return whether every decision of `exact` on a trace is certified, layouts not kept for their own sake."""
        answers = self._totals("exact", trace, self._task.seed, charge=False, requests=0).answers
        return all(answer.meets_sla and answer.late_upper is not None for answer in answers)

    def _row(self, name: str, trace: IntensityTrace, seed: int, *, charge: bool, requests: int) -> Row:
        started = time.perf_counter()
        totals = self._totals(name, trace, seed, charge=charge, requests=requests)
        duration_s = HOUR_S * len(trace.values_g_per_kwh)
        row = row_of(totals, self.problem, scheme=name, trace=trace.name, duration_s=duration_s)
        return dataclasses.replace(row, seconds=round(time.perf_counter() - started, 3))

    def _totals(self, name: str, trace: IntensityTrace, seed: int, *, charge: bool, requests: int) -> Totals:
        hours = hours_of(trace, self.problem.rate_rps)
        # `exact` keeps layouts where changes are charged, so that its answers do depend on that.
        which = (f"{name} {charge}" if name == "exact" else name, trace.name, seed)
        before = self._answers.get(which)
        totals = Replay(
            self.scheme(name, hours, seed) if before is None else _Again(name, before),
            self.problem,
            charge=charge,
            simulate_requests=requests,
            seed=self._task.seed,
            memory=self._known.simulated if requests else self._known.closed,
            keeper=self._keeper,
        ).run(hours)
        self._answers[which] = totals.answers
        return totals

    def scheme(self, name: str, hours: Sequence[Hour], seed: int) -> Scheme:
        """Make a scheme, or return the one that remembers."""
        if name == "static":
            problems = [
                dataclasses.replace(self.problem, intensity_g_per_kwh=hour.intensity_g_per_kwh) for hour in hours
            ]
            return best_static(problems, space=self._known.space)
        if name in {"clover", "blover"}:
            # Evaluations do not depend on the seed: one memory for all of them.
            return ParkingScheme(SearchScheme(name, seed=seed, evaluator=self._known.evaluator).plan, name)
        if name == "clover_live":
            live = LiveEvaluator(seed=seed, measured=self._known.measured)
            return ParkingScheme(SearchScheme("clover", seed=seed, evaluator=live).plan, name)
        if name == "oracle":
            return self._oracle
        if name != "exact":
            return make_scheme(name, seed=seed)
        if self._exact is None:
            self._exact = ExactScheme(seed=seed, proofs=self._known.proofs)
            self._exact.look_ahead(self.problem)
        return self._exact
