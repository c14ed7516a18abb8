"""What `clover` alone says: what runs here, and what to do next."""

from __future__ import annotations

import os
from pathlib import Path


def what_next() -> str:
    """Return a few lines for somebody who does not know how to go on."""
    running = _running()
    if running:
        name = running[0]
        flag = "" if name == "clover" else f" --deployment {name}"
        return "\n".join(
            [
                f"Running here: {', '.join(running)}.",
                "",
                f"  clover dashboard{flag}   watch it",
                f"  clover status{flag}      what it does, since when and why",
                f"  clover events{flag}      what was decided, and what happened",
                f"  clover doctor{flag}      whether all is well",
                "",
                "clover --help lists all commands.",
            ]
        )
    return "\n".join(
        [
            "Clover serves inference on MIG GPUs with little carbon. Nothing of it runs here yet.",
            "",
            "  clover up                                a fleet of 10 simulated GPUs, with a dashboard; q ends it",
            "  clover up --backend cpu --app efficientnet_lite   real models on this machine's cores",
            "  clover plan --app yolov5 --rate 5        a plan and its certificate, nothing running",
            "  clover doctor                            what this machine has, and what is missing",
            "",
            "clover --help lists all commands; docs/first-hour/ goes through them one by one.",
        ]
    )


def _running() -> list[str]:
    """Return the deployments whose owner on this host is alive, by their state files."""
    from clover.agents.deployment import default_state_folder, read_state  # noqa: PLC0415 - only asked here

    folder = Path(os.environ.get("CLOVER_STATE_DIR") or default_state_folder())
    names = sorted(path.stem for path in folder.glob("*.json"))
    return [name for name in names if read_state(folder, name) is not None]
