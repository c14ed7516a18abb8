"""Running the `clover` command and whole deployments as real processes, for the tests that do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

CLOVER = [sys.executable, "-m", "cli"]


def environment(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CLOVER_")}
    return kept | {"CLOVER_STATE_DIR": str(folder)}


def clover(folder: Path, *arguments: str, limit_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLOVER, *arguments], env=environment(folder), capture_output=True, text=True, timeout=limit_s, check=False
    )


@contextlib.contextmanager
def started(
    folder: Path, *arguments: str, command: Sequence[str] = CLOVER, **beside: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the end of the block; `beside` is added to its environment."""
    process = subprocess.Popen(
        [*command, *arguments],
        env=environment(folder) | beside,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def up(
    folder: Path, *arguments: str, duration: str = "15s"
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return started(folder, "up", "--duration", duration, "--hour", "5s", "--no-tui", "--json", *arguments)


def descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    parents[int(entry.name)] = int(fields[1])
    found, fresh = set[int](), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def child_of(pid: int, *words: str) -> int | None:
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if all(word.encode() in command for word in words):
                return child
    return None


def within(limit_s: float, condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < until, "condition did not become true"
        time.sleep(0.05)
    return value


def status(folder: Path) -> dict[str, Any]:
    answer = clover(folder, "status", "--json")
    return json.loads(answer.stdout) if answer.returncode == 0 else {}


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events whose kind is this one, or begins with it and a dot."""
    answer = clover(folder, "events", "--no-follow", "--json", "--kind", kind)
    return [json.loads(line) for line in answer.stdout.splitlines()]


def generating(folder: Path) -> bool:
    """Return whether requests are being answered."""
    answer = clover(folder, "status", "--json")
    return answer.returncode == 0 and any(sum(n["begun"].values()) for n in json.loads(answer.stdout)["nodes"])


def result_of(process: subprocess.Popen[str], limit_s: float = 90.0) -> dict[str, Any]:
    out, err = process.communicate(timeout=limit_s)
    assert process.returncode == 0, err
    return json.loads(out)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Let the generator come to its end; return its figures."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=90.0)
    assert process.returncode == 0, err
    return json.loads(out)


def all_answered(result: dict[str, Any], *, least: int = 100) -> None:
    requests = result["requests"]
    assert requests["sent"] > least
    assert requests["lost"] == requests["duplicate"] == requests["failed"] == requests["expired"] == 0
