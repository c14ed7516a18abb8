"""The SCI score of a ledger: what `clover status` shows and a report may print, from one definition."""

from __future__ import annotations

from clover.bus.messages import LedgerReading
from clover.core.sci import Embodied, SciScore, sci_score


def ledger_score(ledger: LedgerReading, *, pue: float, embodied: Embodied | None) -> SciScore | None:
    """Return the score of everything that a ledger holds; None while nothing was answered.

    Args:
        ledger: Totals of a deployment, or the difference of two (a window).
        pue: Power usage effectiveness in its grams.
        embodied: Of one GPU, see `clover.core.sci.embodied_band`; None leaves M out.
    """
    return sci_score(
        energy_j=ledger.energy_j,
        footprint_g=ledger.footprint_g,
        pue=pue,
        gpu_s=ledger.gpu_s,
        requests=ledger.answered,
        embodied=embodied,
    )
