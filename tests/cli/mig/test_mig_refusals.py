"""What `clover mig` does only if it is told to, or may: resets, instances that others made, what takes rights."""

from __future__ import annotations

from pathlib import Path

from mig_machine import Machine, clean, fake_of

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
    fake = fake_of(driver)
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


# --- rights


def test_without_rights_everybodys_view_is_shown_and_the_missing_capability_named(driver: Machine) -> None:
    driver.run("apply", "3g+4g")
    fake_of(driver).set_rights("user")
    gpu = driver.json("status")["gpus"][0]
    assert gpu["instances"] is None
    assert [each["compute_slices"] for each in gpu["devices"]] in ([4, 3], [3, 4])
    assert any("mig/config" in note for note in gpu["notes"])
    assert "mig/config" in driver.refused("apply", "7g", code=6)
    assert "only the sizes of its devices are compared" in driver.run("assert", "3g+4g").stderr
    assert "its devices are 4g+3g: expected 7g" in driver.run("assert", "7g", code=1).stdout
    assert "mig/config" in driver.refused("assert", "4g@0+3g@4", code=6)
    fake_of(driver).set_rights("config")
    driver.run("apply", "2g+1g")
    driver.run("reset")
    assert "root" in driver.refused("disable", "--allow-reset", code=6)


def test_no_driver_at_all_is_said_in_one_line(tmp_path: Path) -> None:
    assert "hint: " in Machine(clean(tmp_path), (), tmp_path).refused("status", code=6)
