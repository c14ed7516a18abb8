"""A command on a pseudo-terminal, as somebody at a keyboard has it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]

#: Leaves the alternate screen, and takes it.
LEAVE, TAKE = b"\x1b[?1049l", b"\x1b[?1049h"

#: The least that a shell does: the command gets a process group of its own, which has the terminal, and what is
#: suspended goes on after a line of input. A group without a shell around it is not stopped by Ctrl-Z.
_SHELL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
settings = termios.tcgetattr(0)
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    if os.WIFSIGNALED(status):
        # As an interactive shell it stays, so that the terminal does.
        print("job killed", flush=True)
        input()
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status) % 256)
    print("job stopped", flush=True)
    input()
    os.tcsetpgrp(0, child)
    os.killpg(child, signal.SIGCONT)
"""


class Terminal:
    """A command on a pseudo-terminal; what it writes is read all the time, as a terminal does.

    Args:
        command: Program and arguments.
        shell: Whether it has a small shell around it, for Ctrl-C and Ctrl-Z; then `process` is the shell.
        environment: Its environment; None is ours.
        size: Columns and lines.
        term: What kind of terminal it says that it is.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        shell: bool = False,
        environment: dict[str, str] | None = None,
        size: tuple[int, int] = (80, 24),
        term: str = "xterm-256color",
    ) -> None:
        self._master, self._slave = pty.openpty()
        self.before = self.settings()
        self._set_size(*size)
        self.output = b""
        self.process = subprocess.Popen(
            [*([sys.executable, "-c", _SHELL] if shell else []), *command],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            cwd=ROOT,
            start_new_session=True,
            env={**(os.environ if environment is None else environment), "TERM": term},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def settings(self) -> list[Any]:
        """Return the terminal's settings."""
        return termios.tcgetattr(self._slave)

    def until(self, text: bytes, *, limit_s: float = 60.0) -> None:
        """Read until a text has been written since `output` was emptied."""
        self.until_true(lambda: text in self.output, limit_s=limit_s)

    def until_true(self, condition: Callable[[], object], *, limit_s: float = 60.0) -> None:
        """Read until something holds."""
        ends_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < ends_s, self.output[-6000:]
            self._read(0.1)

    def resize(self, width: int, height: int) -> None:
        """Change the size, as somebody who drags the corner."""
        self._set_size(width, height)
        self.process.send_signal(signal.SIGWINCH)

    def press(self, key: bytes) -> None:
        """Type."""
        os.write(self._master, key)

    def after(self, *, limit_s: float = 60.0) -> list[Any]:
        """Wait for the end of the command and return the terminal's settings."""
        ends_s = time.monotonic() + limit_s
        while self.process.poll() is None or self._read(0.05):
            assert time.monotonic() < ends_s, self.output[-6000:]
            self._read(0.05)
        return self.settings()

    def _set_size(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def _read(self, wait_s: float) -> bool:
        if not select.select([self._master], [], [], wait_s)[0]:
            return False
        self.output += os.read(self._master, 65536)
        return True
