"""A run to compare a report's run with, measured instead of modelled."""

from __future__ import annotations

from typing import Any

import numpy as np

from clover.analysis.load import Run
from clover.analysis.report.figures import figures_of
from clover.analysis.report.fleet import series_of
from clover.analysis.report.series import Numbers, Series


class MeasuredBaseline:
    """A measured run to compare with, laid on the same axis; grams are per answer, times the answers of the run."""

    def __init__(self, run: Run, series: Series, figures: dict[str, Any]) -> None:
        theirs = series_of(run)
        self.figures = figures_of(run, theirs)
        self.run = run
        self.notes: list[str] = []
        self.used_g: Numbers | None = None
        self.saved_pct: float | None = None
        if theirs.carbon is None or series.carbon is None:
            self.notes.append("The runs are not compared in carbon: one of them has no readings of the grid or ledger.")
            return
        answered = sum(figures["requests"][outcome] for outcome in ("ok", "late"))
        others = sum(self.figures["requests"][outcome] for outcome in ("ok", "late"))
        scale = answered / others if others else 1.0
        at_s = series.axis.edges_s
        self.used_g = scale * np.interp(at_s, theirs.axis.edges_s, theirs.carbon.used_g)
        if self.used_g[-1] > 0.0:
            self.saved_pct = 100.0 * (1.0 - float(series.carbon.used_g[-1] / self.used_g[-1]))
            self.notes.append(
                f"Against the measured run {self.figures['run']}, per answered request: "
                f"{self.saved_pct:.1f} % less gCO2e."
            )
        self.notes += self._differences(series, theirs)

    def _differences(self, ours: Series, theirs: Series) -> list[str]:
        """Say what makes the comparison unfair."""
        found: list[str] = []
        lengths = [s.axis.end_ms - s.axis.start_ms for s in (ours, theirs)]
        if abs(lengths[0] - lengths[1]) > 0.02 * max(lengths):
            found.append("The two runs are not equally long; the shorter one's last value is carried on.")
        grids = [float(np.mean(s.carbon.effective)) for s in (ours, theirs) if s.carbon is not None]
        if len(grids) == 2 and abs(grids[0] - grids[1]) > 0.02 * max(grids):
            found.append(
                f"The two runs saw different grids (mean intensity x PUE {grids[0]:.4g} and {grids[1]:.4g} gCO2e/kWh): "
                "part of the difference is the grid's."
            )
        return found
