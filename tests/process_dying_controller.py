"""A `clover` controller as a process that kills itself at a point of its work once it is told to.

    python process_dying_controller.py METHOD NTH before|after agent controller ...

The point is the NTH call of a method of `ControlWriter` after the signal SIGUSR1.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from cli.main import main
from clover.agents.control_writer import ControlWriter


def arm(name: str, nth: int, when: str) -> None:
    method = getattr(ControlWriter, name)
    armed = {"is": False, "calls": 0}

    def pass_point(here: str) -> None:
        if armed["is"] and armed["calls"] == nth and here == when:
            os.kill(os.getpid(), signal.SIGKILL)

    async def watched(self: ControlWriter, *args: Any, **kwargs: Any) -> Any:
        armed["calls"] += armed["is"]
        pass_point("before")
        result = await method(self, *args, **kwargs)
        pass_point("after")
        return result

    setattr(ControlWriter, name, watched)
    signal.signal(signal.SIGUSR1, lambda *_: armed.update({"is": True, "calls": 0}))


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    sys.argv = ["clover", *sys.argv[4:]]
    main()
