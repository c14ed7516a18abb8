"""Ending with one's parent: what the kernel of Linux can do for a child process. Imports nothing of ours."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals, *, parent: int | None = None) -> Callable[[], None] | None:
    """Return what a child calls in order to get a signal when its parent ends; None where only Linux could do this.

    Made before a fork, it may be called between fork and exec, where hardly anything else is safe.

    Args:
        number: The signal.
        parent: Process id of the parent; a caller whose parent is another one by now is an orphan and ends at once.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number))
        if parent is not None and os.getppid() != parent:
            os._exit(1)

    return ask
