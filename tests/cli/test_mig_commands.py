"""`clover mig` on simulated GPUs and over the fake driver.

Commands of the fixtures `driver` and `process` are real processes; those of `machine` call the program's entry inside
this one, because starting hundreds of interpreters tests nothing more. They share nothing but files all the same.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from nvml_fake import FakeNvml

from cli.main import main
from mig.codes import CODES
from mig.profiles import gpu_model

#: One that every user may run, unlike an interpreter in somebody's home.
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")
CLOVER = [sys.executable, "-m", "cli", "mig"]
A100, A30 = gpu_model("a100-40gb"), gpu_model("a30")


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
        result = self._called(words) if self.inside else self._started(words)
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        return result

    def _started(self, words: list[str]) -> subprocess.CompletedProcess[str]:
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

    def sizes(self, gpu: int = 0) -> list[str]:
        """What a GPU is cut into, by start."""
        return [each["size"] for each in self.json("status")["gpus"][gpu]["instances"]]


def _clean(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CLOVER_")}
    return kept | {"CLOVER_STATE_DIR": str(folder / "state"), "CLOVER_MIG_STATE": str(folder / "records")}


def _simulated(folder: Path, text: str = "a100-40gb:2") -> Machine:
    return Machine(_clean(folder), ("--simulate", text), folder)


def _faked(folder: Path, fake: FakeNvml, *, inside: bool = False) -> Machine:
    return Machine(fake.environment | _clean(folder), (), folder, fake, inside)


@pytest.fixture(params=["simulated", "driver"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A host with two A100s in MIG mode."""
    if request.param == "simulated":
        return replace(_simulated(tmp_path), inside=True)
    libraries: Callable[[int], Path] = request.getfixturevalue("nvml_libraries")
    fake = FakeNvml(libraries(0), tmp_path / "nvml-state")
    for _ in range(2):
        fake.add_gpu(A100)
    return _faked(tmp_path, fake, inside=True)


@pytest.fixture
def process(tmp_path: Path) -> Machine:
    """A host with two simulated A100s in MIG mode."""
    return _simulated(tmp_path)


@pytest.fixture
def driver(nvml_libraries: Callable[[int], Path], tmp_path: Path) -> Machine:
    """A host with one A100 in MIG mode behind the fake driver."""
    fake = FakeNvml(nvml_libraries(0), tmp_path / "nvml-state")
    fake.add_gpu(A100)
    return _faked(tmp_path, fake)


def _fake(machine: Machine) -> FakeNvml:
    assert machine.fake is not None
    return machine.fake


# --- plan, apply, assert, status, reset


def test_apply_then_status_then_apply_keeps_what_may_stay(machine: Machine) -> None:
    planned = machine.json("plan", "0=3g+4g", "1=7x1g")
    assert [len(gpu["create"]) for gpu in planned["gpus"]] == [2, 7]
    assert machine.sizes() == []
    applied = machine.json("apply", "0=3g+4g", "1=7x1g")
    assert [gpu["state"] for gpu in applied["gpus"]] == ["applied", "applied"]
    status = machine.json("status")
    assert status["simulated"] == (machine.fake is None)
    first, second = status["gpus"]
    assert [each["size"] for each in first["instances"]] == ["4g", "3g"]
    assert {each["owner"] for each in first["instances"]} == {"ours"}
    assert len({each["uuid"] for each in second["instances"]}) == len(second["devices"]) == 7
    machine.run("assert", "0=1", "1=18")
    assert machine.run("assert", "0=7g", code=1).stdout == "GPU 0: it holds 4g@0 3g@4: expected 7g@0\n"
    kept = {each["size"]: each["uuid"] for each in first["instances"]}["4g"]
    assert machine.json("apply", "0=2,1g,4g".replace("2,", "2g,"))["gpus"][0]["state"] == "applied"
    (four,) = [each for each in machine.json("status")["gpus"][0]["instances"] if each["size"] == "4g"]
    assert four["uuid"] == kept
    assert machine.json("apply", "0=2")["gpus"][0]["state"] == "unchanged"
    machine.run("reset", "--dry-run")
    assert machine.sizes(1) == ["1g"] * 7
    machine.run("reset", "1")
    assert (machine.sizes(0), machine.sizes(1)) == (["4g", "2g", "1g"], [])


def test_all_19_codes_can_be_applied(driver: Machine) -> None:
    machine = replace(driver, inside=True)
    for code, sizes in enumerate(CODES):
        assert machine.json("apply", str(code))["ok"]
        assert sorted(machine.sizes()) == sorted(sizes)


def test_an_exact_layout_and_a_dry_run(machine: Machine) -> None:
    dry = machine.json("apply", "0=1g@3+3g@4", "--dry-run")
    assert dry["dry_run"] is True
    assert [(each["size"], each["start"]) for each in dry["gpus"][0]["layout"]] == [("1g", 3), ("3g", 4)]
    assert machine.sizes() == []
    machine.run("apply", "0=1g@3+3g@4")
    machine.run("assert", "0=1g@3+3g@4")
    machine.run("assert", "0=1g@0+3g@4", code=1)


def test_what_cannot_be_is_refused_before_anything_is_changed(machine: Machine) -> None:
    assert "GPU 1: partition 2x4g does not fit" in machine.refused("apply", "0=7g", "1=4g+4g", code=3)
    assert machine.sizes() == []
    assert "GPU 5 is not there: expected one of 0, 1" in machine.refused("apply", "5=7g", code=3)
    assert "all GPUs have '2g' already" in machine.refused("apply", "2g", "1g", code=3)
    assert "no partition is given" in machine.refused("plan", code=3)


def test_an_a30_refuses_the_codes_and_never_creates_the_wrong_thing(
    nvml_libraries: Callable[[int], Path], tmp_path: Path
) -> None:
    fake = FakeNvml(nvml_libraries(0), tmp_path / "nvml-state")
    fake.add_gpu(A30)
    machine = _faked(tmp_path, fake, inside=True)
    for code in range(len(CODES)):
        assert "expected a board with 7 compute slices" in machine.refused("apply", str(code), code=3)
    assert machine.sizes() == []
    machine.run("apply", "2g+1g+1g")
    assert [each["profile"] for each in machine.json("status")["gpus"][0]["instances"]] == ["2g.12gb"] + ["1g.6gb"] * 2


def test_people_read_lines_that_say_what_is_simulated(process: Machine) -> None:
    applied = process.run("apply", "0=3g+4g")
    assert "SIMULATED" in applied.stderr
    assert "GPU 0: create 4g@0" in applied.stderr
    assert applied.stdout.startswith("GPU 0: applied: 4g@0 MIG-")
    status = process.run("status").stdout
    assert "GPU 0  NVIDIA A100 40GB (simulated)" in status
    assert "4g.20gb    at {0}:4  MIG-" in status
    assert "no instances" in status
    assert process.run("plan", "0=3g+4g").stdout == "GPU 0: nothing to do\n"
    process.run("assert", "0=7g", code=1)
    process.refused("apply", "0=4g+4g", code=3)
    process.refused("disable", "1", code=6)


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ("a100-40gb:0", 3, "expected a board and 1 to 16"),
        ("a100-40gb:17", 3, "expected a board and 1 to 16"),
        ("v100", 3, "gpu_model 'v100': expected one of"),
        (":2", 3, "expected a board"),
    ],
)
def test_simulated_gpus_that_cannot_be(tmp_path: Path, option: str, code: int, message: str) -> None:
    assert message in replace(_simulated(tmp_path, option), inside=True).refused("status", code=code)


def test_a_damaged_file_of_a_simulated_gpu_is_named(tmp_path: Path) -> None:
    machine = replace(_simulated(tmp_path), inside=True)
    machine.run("apply", "0=7g")
    (file,) = (tmp_path / "state" / "mig-simulated").glob("a100-40gb.0.json")
    file.write_text('{"instances": [{"id": 1}]}')
    assert str(file) in machine.refused("status", code=6)


# --- mode


def test_mode_changes_that_need_a_reset_are_never_silent(machine: Machine) -> None:
    machine.run("apply", "0=7g")
    assert "it holds 1 instances" in machine.refused("disable", "0", code=6)
    machine.run("reset", "0")
    assert "resets this board" in machine.refused("disable", "0", code=6)
    assert "would switch MIG off" in machine.run("disable", "0", "--dry-run").stdout
    assert machine.json("status")["gpus"][0]["mig"] == {"current": True, "pending": True}
    assert machine.json("disable", "0", "--allow-reset")["gpus"][0]["after"] == {"current": False, "pending": False}
    assert "MIG mode is off already" in machine.run("disable", "0").stdout
    assert "MIG mode is off: expected on" in machine.refused("apply", "0=7g", code=6)
    assert "MIG mode is off: expected on" in machine.run("assert", "0=7g", code=1).stdout
    planned = machine.json("plan", "0=7g", "--set-mode")["gpus"][0]
    assert planned["changes_mode"]
    machine.refused("apply", "0=7g", "--set-mode", code=6)
    assert machine.json("apply", "0=7g", "--set-mode", "--allow-reset")["ok"]
    machine.run("assert", "0=7g")


def test_a_mode_that_waits_for_a_reset_is_told(driver: Machine) -> None:
    fake = _fake(driver)
    fake.set_activation(0, "after_reset")
    assert "off after a reset" in driver.refused("disable", "--allow-reset", code=6)
    assert "off after a reset" in driver.run("status").stdout
    assert "becomes off at the next reset" in driver.refused("apply", "7g", code=6)


# --- foreign instances


def test_foreign_instances_go_only_if_they_are_named(machine: Machine) -> None:
    machine.run("apply", "0=3g+4g")
    for record in (*machine.folder.glob("records/*.json"), *machine.folder.glob("state/mig-simulated/records/*.json")):
        record.unlink()
    assert {each["owner"] for each in machine.json("status")["gpus"][0]["instances"]} == {"foreign"}
    ids = {each["size"]: each["id"] for each in machine.json("status")["gpus"][0]["instances"]}
    assert "were not created by this manager" in machine.refused("reset", "0", code=6)
    machine.refused("apply", "0=7g", code=6)
    machine.run("apply", "0=4g+1g", "--allow", f"0/{ids['3g']}")
    assert machine.sizes() == ["4g", "1g"]
    machine.refused("reset", "0", "--allow", f"0/{ids['3g']}", code=6)
    machine.run("reset", "0", "--allow", f"0/{ids['4g']}")
    assert machine.sizes() == []
    assert "expected GPU/ID" in machine.refused("reset", "--allow", "x", code=3)


# --- layout files

LAYOUTS = """
version = 1
[[layouts.serving]]
devices = [0]
nodes = ["gpu-a"]
partition = "4g+3g"
[[layouts.serving]]
devices = [1]
mig-devices = { "1g.5gb" = 2, "3g" = 1 }
[[layouts.off]]
devices = [0]
mig-enabled = false
"""


def test_a_named_layout_of_a_file(machine: Machine) -> None:
    (machine.folder / "mig.toml").write_text(LAYOUTS)
    named = ("--file", "mig.toml", "--layout", "serving", "--node", "gpu-a")
    assert machine.json("apply", *named)["ok"]
    assert sorted(machine.sizes(1)) == ["1g", "1g", "3g"]
    machine.run("assert", *named)
    machine.run("assert", "--file", "mig.toml", "--layout", "serving", "--node", "gpu-b")
    off = ("--file", "mig.toml", "--layout", "off")
    assert "the layout wants it off" in machine.refused("apply", *off, code=3)
    assert machine.json("apply", *off, "--set-mode", "--allow-reset")["ok"]
    machine.run("assert", *off)
    assert machine.json("apply", *off)["gpus"][0]["state"] == "unchanged"
    assert machine.json("status")["gpus"][0]["instances"] is None
    assert "layout 'x': expected one of off, serving" in machine.refused(
        "plan", "--file", "mig.toml", "--layout", "x", code=3
    )
    assert "both of --file and --layout" in machine.refused("plan", "--layout", "serving", code=3)
    assert "both of --file and --layout" in machine.refused("plan", "7g", *named, code=3)


# --- export


def test_export_walks_the_codes_and_puts_back_what_was_there(machine: Machine) -> None:
    machine.run("apply", "0=3g+2g")
    before = machine.json("status")["gpus"][0]["instances"]
    machine.run("export", "--output", "table.json", "--node", "host-a")
    table = json.loads((machine.folder / "table.json").read_text())
    assert list(table) == ["host-a"]
    assert list(table["host-a"]) == ["0", "1"]
    for codes in table["host-a"].values():
        assert [len(codes[str(code)]) for code in range(len(CODES))] == [len(code) for code in CODES]
        assert all(uuid.startswith("MIG-") for uuids in codes.values() for uuid in uuids)
    after = machine.json("status")["gpus"][0]["instances"]
    assert [(each["size"], each["start"]) for each in after] == [(each["size"], each["start"]) for each in before]
    full = machine.json("export", "0", "--codes", "2,4", "--form", "full")
    slices = full["table"]["gpus"][0]["codes"]["2"]
    assert [each["size"] for each in slices] == ["2g", "1g", "4g"]
    assert set(slices[0]) == {"size", "profile", "start", "memory_slices", "instance_id", "uuid"}
    assert full["table"]["gpus"][0]["uuid"] == machine.json("status")["gpus"][0]["uuid"]


def test_export_refuses_gpus_that_are_used_and_files_that_cannot_be(driver: Machine) -> None:
    (instance,) = driver.json("apply", "7g")["gpus"][0]["instances"]
    _fake(driver).use(0, instance["id"], pid=os.getpid())
    assert f"is in use by process {os.getpid()}" in driver.refused("export", code=6)
    assert driver.sizes() == ["7g"]
    assert "--output" in driver.refused("export", "--output", "none/table.json", code=3)
    assert "expected codes from 0 to 18" in driver.refused("export", "--codes", "19", code=3)


# --- rights


def test_without_rights_everybodys_view_is_shown_and_the_missing_capability_named(driver: Machine) -> None:
    driver.run("apply", "3g+4g")
    _fake(driver).set_rights("user")
    gpu = driver.json("status")["gpus"][0]
    assert gpu["instances"] is None
    assert [each["compute_slices"] for each in gpu["devices"]] in ([4, 3], [3, 4])
    assert any("mig/config" in note for note in gpu["notes"])
    assert "mig/config" in driver.refused("apply", "7g", code=6)
    assert "only the sizes of its devices are compared" in driver.run("assert", "3g+4g").stderr
    assert "its devices are 4g+3g: expected 7g" in driver.run("assert", "7g", code=1).stdout
    assert "mig/config" in driver.refused("assert", "4g@0+3g@4", code=6)
    _fake(driver).set_rights("config")
    driver.run("apply", "2g+1g")
    driver.run("reset")
    assert "root" in driver.refused("disable", "--allow-reset", code=6)


def test_no_driver_at_all_is_said_in_one_line(tmp_path: Path) -> None:
    assert "hint: " in Machine(_clean(tmp_path), (), tmp_path).refused("status", code=6)


# --- watch


def test_watch_prints_what_changes(machine: Machine) -> None:
    with _started(machine, "watch", "0", "--interval", "100ms", "--json") as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["what"] == "mig"
        machine.run("apply", "0=7g")
        # How much of the apply itself is seen on the way depends on when the watcher looks.
        seen = next(each for each in map(json.loads, watching.stdout) if "7g@0" in each["what"])
        assert (seen["change"], seen["gpu"]) == ("appeared", 0)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=10) == 130
    assert "GPU 0  is       mig: on" in machine.run("watch", "0", "--count", "1").stdout


# --- settings


def test_a_settings_file_for_other_commands_does_no_harm(machine: Machine) -> None:
    (machine.folder / "clover.toml").write_text('gpus = 7\nprofile = "table.json"\nrate = 3.0\n')
    assert len(machine.json("status")["gpus"]) == 2
    machine.run("apply", "0=7g")
    (machine.folder / "clover.toml").write_text('[mig.apply]\npartitions = "7g"\n')
    assert "unknown key 'partitions'" in machine.refused("status", code=3)
    (machine.folder / "clover.toml").write_text('node = "a"\n')
    assert "unknown key 'node'" in machine.refused("status", code=3)
    (machine.folder / "clover.toml").write_text('[mig]\nsimulate = "a30:3"\n[mig.export]\nnode = "a"\n')
    if machine.fake is not None:
        assert [gpu["board"] for gpu in machine.json("status")["gpus"]] == ["a30"] * 3


# --- helper


@contextlib.contextmanager
def _started(machine: Machine, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*CLOVER, *arguments, *machine.options],
        env=machine.environment,
        cwd=machine.folder,
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
    with _started(machine, "helper", "--socket", str(path), "--gpu", "0", "--allow-profile", "3g") as process:
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
        with _started(_simulated(folder), *arguments) as process:
            _listening(process)
            assert '"current":true' in asked(path, 12345)
            assert '"current":true' in asked(path, 23456)
            assert "user 34567 may not use this helper" in asked(path, 34567)
