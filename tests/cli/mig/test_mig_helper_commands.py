"""`clover mig helper`: commands that go through it, and whom it serves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mig_machine import Machine, simulated

#: One that every user may run, unlike an interpreter in somebody's home.
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")


def _listening(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    until = time.monotonic() + 20
    for line in process.stderr:
        if "listens on" in line:
            return
        assert time.monotonic() < until
    raise AssertionError("the helper ended")


def test_commands_go_through_a_helper(machine: Machine) -> None:
    path = machine.folder / "h.sock"
    client = replace(machine, options=("--helper", str(path)), fake=None)
    with machine.started("helper", "--socket", str(path), "--gpu", "0", "--allow-profile", "3g") as process:
        _listening(process)
        assert client.json("status")["source"] == "helper"
        assert len(client.json("status")["gpus"]) == 1
        assert client.json("apply", "3g+3g")["ok"]
        assert "profile 1g (1g.5gb): expected one" in client.refused("apply", "3g+1g", code=6)
        assert client.sizes() == ["3g", "3g"]
        assert "does not change MIG mode" in client.refused("disable", "--allow-reset", code=6)
        client.run("reset")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    assert not path.exists()
    assert "expected `clover mig helper` to listen" in client.refused("status", code=6)
    assert "profile '9g'" in machine.refused("helper", "--socket", str(path), "--allow-profile", "9g", code=3)
    assert "--user 'nosuch'" in machine.refused("helper", "--socket", str(path), "--user", "nosuch", code=3)


@pytest.mark.skipif(
    os.geteuid() != 0 or SYSTEM_PYTHON is None, reason="only root can become another user, who needs a python3 to run"
)
def test_only_users_and_groups_that_it_was_started_for_are_served() -> None:
    ask = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    ask += 's.sendall(b\'{"do":"mode","gpu":0}\\n\'); print(s.makefile().readline())'

    def asked(path: Path, uid: int) -> str:
        result = subprocess.run(
            [str(SYSTEM_PYTHON), "-I", "-c", ask, str(path)],
            user=uid, group=uid, extra_groups=[], capture_output=True, text=True, timeout=20, check=False, cwd="/",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    # Not pytest's own folder, into which only its owner may look.
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "h.sock"
        folder.chmod(0o755)
        arguments = ("helper", "--socket", str(path), "--user", "12345", "--group", "23456")
        with simulated(folder).started(*arguments) as process:
            _listening(process)
            assert '"current":true' in asked(path, 12345)
            assert '"current":true' in asked(path, 23456)
            assert "user 34567 may not use this helper" in asked(path, 34567)
