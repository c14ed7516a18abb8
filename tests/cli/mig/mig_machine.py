"""Hosts on which `clover mig` is run: with simulated boards, or boards behind the fake driver.

They share nothing with the tests but files, even where a command runs inside the test's own process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from nvml_fake import FakeNvml
from processes import started

from cli.main import main

CLOVER = [sys.executable, "-m", "cli", "mig"]


@dataclass(frozen=True)
class Machine:
    """Where commands run: with what environment and options."""

    environment: dict[str, str]
    options: tuple[str, ...]
    folder: Path
    fake: FakeNvml | None = None
    inside: bool = False

    def run(self, command: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run one command and check its exit code."""
        words = [command, *arguments, *self.options]
        result = self._called(words) if self.inside else self._spawned(words)
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        return result

    def _spawned(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLOVER, *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _called(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.object(sys, "argv", ["clover", "mig", *words]),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            self.fake.loaded() if self.fake is not None else contextlib.nullcontext(),
        ):
            try:
                main()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    def json(self, command: str, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run one command with --json."""
        answer = json.loads(self.run(command, *arguments, "--json", code=code).stdout)
        assert answer["schema"] == 1
        return answer

    def refused(self, command: str, *arguments: str, code: int) -> str:
        """Run a command that fails; returns what it says, an error and perhaps a hint."""
        result = self.run(command, *arguments, code=code)
        lines = [line for line in result.stderr.splitlines() if not line.startswith(("SIMULATED", "GPU "))]
        assert lines[0].startswith("clover: ")
        assert all(line.startswith("  hint: ") for line in lines[1:])
        return result.stderr

    def started(self, *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        """Run one command as a process until the end of the block."""
        return started(self.folder, *arguments, *self.options, command=CLOVER, **self.environment)

    def sizes(self, gpu: int = 0) -> list[str]:
        """What a GPU is cut into, by start."""
        return [each["size"] for each in self.json("status")["gpus"][gpu]["instances"]]


def clean(folder: Path) -> dict[str, str]:
    """The environment of a host with nothing but folders of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CLOVER_")}
    return kept | {"CLOVER_STATE_DIR": str(folder / "state"), "CLOVER_MIG_STATE": str(folder / "records")}


def simulated(folder: Path, text: str = "a100-40gb:2") -> Machine:
    """A host with simulated boards."""
    return Machine(clean(folder), ("--simulate", text), folder)


def faked(folder: Path, fake: FakeNvml, *, inside: bool = False) -> Machine:
    """A host with the boards of a fake driver."""
    return Machine(fake.environment | clean(folder), (), folder, fake, inside)


def fake_of(machine: Machine) -> FakeNvml:
    """The fake driver of a host that has one."""
    assert machine.fake is not None
    return machine.fake
