"""`clover report`: a run or an experiment as one page to show around."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.output import print_json, tell
from cli.recording import RunsDir
from cli.runs_option import RunArgument, run_folder
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.analysis.report.page import Page


def report(
    run: RunArgument = "last",
    *,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="RUN", help="Measured run to compare with; default: BASE, modelled."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report (default: report in the run's folder).")
    ] = None,
    png: Annotated[bool, typer.Option("--png/--no-png", help="PNG pictures beside SVG.")] = True,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    runs_dir: RunsDir = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Write a report: one HTML page that needs no network, Markdown, JSON, and every picture as SVG and PNG.

    An open run is reported as it is at that moment. An older report in the same folder is replaced.

    Examples: clover report; clover report last --open; clover report <run> --baseline <run>
    """
    from clover.analysis.report.writing import write  # noqa: PLC0415 - keeps --help fast

    folder = run_folder(run, runs_dir, state_dir)
    page = _page(folder, None if baseline is None else run_folder(baseline, runs_dir, state_dir), png=png)
    path = write(page, out or folder / "report")
    for note in page.notes:
        tell(f"note: {note}")
    if as_json:
        print_json({**page.data, "report": str(path)})
    else:
        print(path)
    if show and not webbrowser.open(path.resolve().as_uri()):
        tell("no browser was found; open the page by hand")


def _page(folder: Path, baseline: Path | None, *, png: bool) -> Page:
    from clover.analysis.report.experiment import experiment_report, is_experiment  # noqa: PLC0415 - keeps --help fast
    from clover.analysis.report.make import report as of_run  # noqa: PLC0415
    from clover.analysis.report.make import summary_of  # noqa: PLC0415

    summary = summary_of(folder)
    if summary is None or not is_experiment(summary):
        return of_run(folder, baseline=baseline, png=png)
    if baseline is not None:
        raise ConfigurationError("--baseline: an experiment holds its own baselines, expected none")
    return experiment_report(folder, summary, png=png)
