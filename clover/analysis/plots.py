"""Pictures of the results page, as small SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clover.analysis.cases import APPLICATIONS
from clover.analysis.frontier import pyplot
from clover.analysis.ladder import RUNGS


def draw_all(folder: Path, *, paper: Sequence[dict[str, Any]], ladder: Sequence[dict[str, Any]]) -> list[Path]:
    """Write every picture for which there are figures; return their files.

    Args:
        folder: Where to.
        paper: Parts of the 54 cases.
        ladder: Rows on the short traces.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plt = pyplot()
    # The same figures give the same file, byte by byte.
    plt.rcParams.update({"svg.hashsalt": "clover", "svg.fonttype": "none", "font.size": 9})
    made: list[Path] = []
    if ladder:
        made.append(_ladder(plt, ladder, folder / "ladder.svg"))
    if paper:
        made.append(_paper(plt, paper, folder / "objective.svg"))
    return made


def _ladder(plt: Any, rows: Sequence[dict[str, Any]], file: Path) -> Path:
    """Saved against BASE by parked watts, lambda 0.5, CISO March, without host power."""
    figure, axes = plt.subplots(1, len(APPLICATIONS), figsize=(9.0, 3.0), sharey=True, layout="constrained")
    for axis, app in zip(axes, APPLICATIONS, strict=True):
        own = [r for r in rows if (r["app"], r["lambda"], r["trace"], r["host_w"]) == (app, 0.5, "ciso-march", 0.0)]
        for rung in RUNGS[1:]:
            axis.plot([r["parked_w"] for r in own], [r["saved_pct"][rung] for r in own], "o-", ms=3, label=rung)
        axis.set(title=app, xlabel="parked GPU, W")
    axes[0].set_ylabel("saved against BASE, % (modelled)")
    axes[-1].legend(fontsize="small")
    return _save(plt, figure, file)


def _paper(plt: Any, parts: Sequence[dict[str, Any]], file: Path) -> Path:
    """Gain of `exact` over each compared scheme in the steady state, one mark per case."""
    figure, axis = plt.subplots(figsize=(7.0, 3.0), layout="constrained")
    cases = [case for part in parts for case in part["steady"]]
    for name, mark in (("oracle", "o"), ("clover", "x"), ("blover", "+")):
        gains = [case["objective"]["exact"] - case["objective"][name] for case in cases]
        axis.plot(range(1, len(gains) + 1), gains, mark, ms=4, label=f"over {name}")
    axis.axhline(0.0, color="black", lw=0.5)
    axis.set(xlabel="case (application, load, lambda, trace)", ylabel="objective gained by exact")
    axis.legend(fontsize="small")
    return _save(plt, figure, file)


def _save(plt: Any, figure: Any, file: Path) -> Path:
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    return file
