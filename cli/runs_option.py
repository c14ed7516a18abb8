"""Which run a command reads: a folder, or a name as `clover runs` knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

RunArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder, name, beginning of a name, or last (see clover runs ls).")
]
RunOption: TypeAlias = Annotated[
    str, typer.Option("--run", metavar="RUN", help="Folder, name, beginning of a name, or last (see clover runs ls).")
]


def run_folder(name: str, runs_dir: Path | None, state_dir: Path | None) -> Path:
    """Return the folder of a run; raises RunError if there is none of that name."""
    from cli.recording import alive  # noqa: PLC0415 - keeps --help fast
    from clover.agents.deployment import default_state_folder  # noqa: PLC0415
    from clover.runs.folder import default_runs_folder, find_run  # noqa: PLC0415

    given = Path(name)
    if given.is_dir():
        # Also an archive that no run folder surrounds.
        return given
    return find_run(runs_dir or default_runs_folder(state_dir or default_state_folder()), name, alive).path
