"""What `clover` alone says: what runs here, and what to do next."""

from __future__ import annotations

import os
from pathlib import Path

_NOTHING = """\
Clover serves inference on MIG GPUs with little carbon. Nothing of it runs here yet.

  clover up                                         10 simulated GPUs, with a dashboard; q ends it
  clover up --backend cpu --app efficientnet_lite   real models on this machine's cores
  clover plan --app yolov5 --rate 5                 a plan and its certificate, nothing running
  clover doctor                                     what this machine has, and what is missing

clover --help lists all commands; docs/first-hour/ goes through them one by one."""
_SOMETHING = """\
  clover dashboard{flag}   watch it
  clover status{flag}      what it does, since when and why
  clover events{flag}      what was decided, and what happened
  clover doctor{flag}      whether all is well

clover --help lists all commands."""


def what_next() -> str:
    """Return a few lines for somebody who does not know how to go on."""
    running = _running()
    if not running:
        return _NOTHING
    flag = "" if running[0] == "clover" else f" --deployment {running[0]}"
    return f"Running here: {', '.join(running)}.\n\n{_SOMETHING.format(flag=flag)}"


def _running() -> list[str]:
    """Return the deployments whose owner on this host is alive, by their state files."""
    from clover.agents.deployment import default_state_folder, read_state  # noqa: PLC0415 - only asked here

    folder = Path(os.environ.get("CLOVER_STATE_DIR") or default_state_folder())
    names = sorted(path.stem for path in folder.glob("*.json"))
    return [name for name in names if read_state(folder, name) is not None]
