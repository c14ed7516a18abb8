"""A mixed-integer linear program row by row, in the form that HiGHS takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np

from clover.core.closed_form import Floats

#: HiGHS gives up after so many nodes of its search; its bound still counts.
_MOST_NODES = 300
#: The same answer on every machine; restarts, symmetry, heuristics that solve programs of their own, cuts below the
#: root and a large pool of cuts cost three quarters of the time of programs as small as these.
_OPTIONS = (
    ("threads", 1),
    ("random_seed", 0),
    ("mip_rel_gap", 0.0),
    ("mip_allow_restart", False),
    ("mip_detect_symmetry", False),
    ("mip_heuristic_run_feasibility_jump", False),
    ("mip_heuristic_run_root_reduced_cost", False),
    ("mip_heuristic_run_rins", False),
    ("mip_heuristic_run_rens", False),
    ("mip_allow_cut_separation_at_nodes", False),
    ("mip_pool_soft_limit", 1),
)
#: HiGHS' number for "a feasible solution is there" (SolutionStatus::kSolutionStatusFeasible).
_FEASIBLE = 2


class QuietHighs(highspy.Highs):
    """HiGHS without a word: the constructor of highspy enables callbacks, which already prints a banner."""

    def enableCallbacks(self) -> None:  # noqa: N802 - overridden
        """Switch output off first; callbacks are not needed."""
        self.setOptionValue("output_flag", False)


class Rows:
    """Rows over (GPUs per partition, spare GPUs, instances per kind, flow per kind).

    Args:
        partitions: Number of partitions.
        kinds: Number of kinds.
    """

    def __init__(self, *, partitions: int, kinds: int) -> None:
        self._partitions, self._kinds = partitions, kinds
        self._rows: list[Floats] = []
        self._lower: list[float] = []
        self._upper: list[float] = []

    def add(
        self,
        lower: float,
        upper: float,
        *,
        gpus: Floats | None = None,
        spare: float = 0.0,
        counts: Floats | None = None,
        flows: Floats | None = None,
    ) -> None:
        """Add lower <= row <= upper; what is not given is 0."""
        nothing = np.zeros(self._kinds)
        partitions = np.zeros(self._partitions) if gpus is None else gpus
        parts = [partitions, [spare], nothing if counts is None else counts, nothing if flows is None else flows]
        self.add_row(np.concatenate(parts), lower, upper)

    def add_row(self, row: Floats, lower: float, upper: float) -> None:
        """Add lower <= row <= upper, the row in full length."""
        self._rows.append(row)
        self._lower.append(lower)
        self._upper.append(upper)

    def program(self, costs: Floats, spare: tuple[float, float], *, relaxed: bool) -> highspy.HighsLp:
        """Return the program that maximises the costs; everything but the flows is whole unless relaxed.

        Args:
            costs: Of a row's length.
            spare: Fewest and most spare GPUs.
            relaxed: Whether all numbers are real.
        """
        matrix = np.array(self._rows)
        filled = matrix != 0.0
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = len(costs), len(matrix)
        program.sense_ = highspy.ObjSense.kMaximize
        program.col_cost_ = costs
        lower = np.zeros(len(costs))
        lower[self._partitions] = spare[0]
        program.col_lower_ = lower
        upper = np.full(len(costs), highspy.kHighsInf)
        upper[self._partitions] = spare[1]
        program.col_upper_ = upper
        program.row_lower_, program.row_upper_ = np.array(self._lower), np.array(self._upper)
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = np.concatenate([[0], np.cumsum(filled.sum(axis=1))])
        program.a_matrix_.index_ = np.nonzero(filled)[1]
        program.a_matrix_.value_ = matrix[filled]
        if not relaxed:
            whole = self._partitions + 1 + self._kinds
            integer, real = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
            program.integrality_ = [integer] * whole + [real] * self._kinds
        return program


class Relaxed:
    """A program without whole numbers that is solved again and again, each time from where it ended.

    Args:
        program: To be maximised.
        cells: Coefficients that change together, as rows and columns.
        row: A row whose upper limit changes.
    """

    def __init__(self, program: highspy.HighsLp, cells: Sequence[tuple[int, int]], row: int) -> None:
        self._solver, self._cells, self._row = QuietHighs(), tuple(cells), row
        self._columns = np.arange(program.num_col_, dtype=np.int32)
        self._coefficient = self._limit = np.nan
        self._solver.setOptionValue("threads", 1)
        self._solver.passModel(program)

    def solve(self, costs: Floats, *, coefficient: float, limit: float) -> tuple[float, Floats] | None:
        """Return the optimum and the values of the columns; None if nothing is feasible.

        Args:
            costs: Of the columns.
            coefficient: Value of the cells.
            limit: Upper limit of the row.
        """
        solver = self._solver
        solver.changeColsCost(len(costs), self._columns, costs)
        if coefficient != self._coefficient:
            for row, column in self._cells:
                solver.changeCoeff(row, column, coefficient)
        if limit != self._limit:
            solver.changeRowBounds(self._row, -highspy.kHighsInf, limit)
        self._coefficient, self._limit = coefficient, limit
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        return float(solver.getInfo().objective_function_value), np.array(solver.getSolution().col_value)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solved:
    """What HiGHS says of a program in whole numbers.

    Attributes:
        bound: No solution scores more.
        found: Whether there is a solution; if not, HiGHS gave up, and only the bound counts.
        values: Of the columns.
    """

    bound: float
    found: bool
    values: Floats


def solve_whole(program: highspy.HighsLp, *, absolute_gap: float, cutoff: float) -> Solved | None:
    """Maximise; None if nothing is feasible and scores above the cutoff.

    Args:
        program: To be solved.
        absolute_gap: HiGHS ends when its bound and its answer are so near.
        cutoff: What scores no more need not be found.
    """
    solver = QuietHighs()
    for option, value in (*_OPTIONS, ("mip_abs_gap", absolute_gap)):
        solver.setOptionValue(option, value)
    # Counting nodes rather than seconds keeps answers the same on every machine.
    solver.setOptionValue("mip_max_nodes", _MOST_NODES)
    if cutoff > -np.inf:
        # HiGHS minimises inside: nothing whose negative score is above this is looked for.
        solver.setOptionValue("objective_bound", -cutoff)
    solver.passModel(program)
    solver.run()
    if solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        return None
    info = solver.getInfo()
    return Solved(
        bound=max(float(info.mip_dual_bound), cutoff),
        found=info.primal_solution_status == _FEASIBLE,
        values=np.array(solver.getSolution().col_value),
    )
