"""What share of a core the dashboard of a running `clover up` takes: real processes, a real server, a pseudo-terminal.

    python benchmarks/dashboard_up.py [--gpus 100 --rate 1000 --seconds 30 --size 200x60 --pictures FOLDER]

Starts `clover up` on a pseudo-terminal, waits until it serves, and prints a JSON line per page: processor time of the
drawing process over real time, and bytes that it wrote. Must stay below 0.15. `benchmarks/dashboard.py` measures the
same work alone, on messages made beforehand.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

#: The fleet must serve within this time.
READY_S = 150.0
PAGES = {"1": "overview", "2": "gpus", "3": "decisions", "4": "requests", "5": "log"}


class Output:
    """Reads what comes on a pseudo-terminal, and counts it."""

    def __init__(self, master: int) -> None:
        self.read = 0
        self._master = master
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 1 << 16):
                self.read += len(data)


def child_with(pid: int, word: bytes) -> int | None:
    """Return a child process that has a word in its command line."""
    for entry in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in entry.read_text().split():
            with contextlib.suppress(OSError):
                if word in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
    return None


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def status(environment: dict[str, str]) -> dict[str, object]:
    """Return what `clover status --json` says, empty if there is nothing to say it of."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "status", "--json"], env=environment, capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout) if done.returncode == 0 else {}


def serving(environment: dict[str, str]) -> bool:
    """Return whether requests are being answered."""
    nodes = status(environment).get("nodes")
    return isinstance(nodes, list) and any(sum(node["begun"].values()) for node in nodes)


@contextlib.contextmanager
def running(asked: argparse.Namespace, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `clover up` on a pseudo-terminal; yield the process and the terminal's other end."""
    master, slave = pty.openpty()
    columns, lines = (int(part) for part in asked.size.split("x"))
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    command = [sys.executable, "-m", "cli", "up", "--gpus", str(asked.gpus), "--rate", str(asked.rate), "--no-archive"]
    command += ["--nodes", str(-(-asked.gpus // 8))] if asked.gpus > 8 else []
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - there is no thread yet
    )  # fmt: skip
    try:
        yield process, master
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        os.close(slave)


def measure(asked: argparse.Namespace, environment: dict[str, str]) -> Iterator[dict[str, object]]:
    """Yield a figure per page."""
    with running(asked, environment) as (process, master):
        output = Output(master)
        until = time.monotonic() + READY_S
        while not serving(environment):
            if time.monotonic() > until:
                raise SystemExit(f"not serving within {READY_S:g} s")
            time.sleep(1.0)
        drawing = child_with(process.pid, b"cli.dashboard_child")
        if drawing is None:
            raise SystemExit("no process draws")
        for key, page in PAGES.items():
            os.write(master, key.encode())
            time.sleep(2.0)
            began_s, used_s, read = time.monotonic(), cpu_s(drawing), output.read
            time.sleep(asked.seconds)
            took_s = time.monotonic() - began_s
            yield {
                "figure": "dashboard_up", "page": page, "size": asked.size, "gpus": asked.gpus,
                "rate_rps": asked.rate, "seconds": round(took_s, 1),
                "share_of_core": round((cpu_s(drawing) - used_s) / took_s, 4),
                "bytes_per_s": round((output.read - read) / took_s), "load_average": round(os.getloadavg()[0], 1),
            }  # fmt: skip
            if asked.pictures:
                picture = [*(sys.executable, "-m", "cli", "dashboard"), "--page", page, "--size", asked.size]
                subprocess.run([*picture, "--svg", str(asked.pictures / f"{page}.svg")], env=environment, check=False)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--size", default="200x60")
    parser.add_argument("--pictures", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOVER_")}
        environment = kept | {"CLOVER_STATE_DIR": folder, "TERM": "xterm-256color"}
        for figure in measure(asked, environment):
            print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
