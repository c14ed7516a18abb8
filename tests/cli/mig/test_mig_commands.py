"""`clover mig` plans, applies, asserts, shows, exports and watches, on simulated GPUs and over the fake driver."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mig_machine import Machine, fake_of, faked, simulated
from nvml_fake import FakeNvml

from mig.codes import CODES
from mig.profiles import gpu_model

A30 = gpu_model("a30")


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
    machine = faked(tmp_path, fake, inside=True)
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
    assert message in replace(simulated(tmp_path, option), inside=True).refused("status", code=code)


def test_a_damaged_file_of_a_simulated_gpu_is_named(tmp_path: Path) -> None:
    machine = replace(simulated(tmp_path), inside=True)
    machine.run("apply", "0=7g")
    (file,) = (tmp_path / "state" / "mig-simulated").glob("a100-40gb.0.json")
    file.write_text('{"instances": [{"id": 1}]}')
    assert str(file) in machine.refused("status", code=6)


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
    fake_of(driver).use(0, instance["id"], pid=os.getpid())
    assert f"is in use by process {os.getpid()}" in driver.refused("export", code=6)
    assert driver.sizes() == ["7g"]
    assert "--output" in driver.refused("export", "--output", "none/table.json", code=3)
    assert "expected codes from 0 to 18" in driver.refused("export", "--codes", "19", code=3)


# --- watch


def test_watch_prints_what_changes(machine: Machine) -> None:
    with machine.started("watch", "0", "--interval", "100ms", "--json") as watching:
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
