"""Idle power, measured over the fake driver's counter, state by state, and its way into a performance table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nvml_fake import FakeNvml
from typer.testing import CliRunner

from cli.main import app
from clover.agents.power_bench import STATES, PowerBench, StatePower
from clover.agents.system_clock import SystemClock
from clover.core.configuration import GpuConfiguration, InstanceKind
from clover.errors import NodeError
from clover.performance_tables import load_table, read_table
from clover.power.measure import Window, mean_power
from clover.power.nvml import NvmlMeter
from clover.serving.port import InstanceSpec, ServableRequest, Served, ServingError
from mig.managed import ManagedGpu
from mig.nvml import NvmlDriver
from mig.placement import place
from mig.profiles import gpu_model
from mig.store import MemoryStore

A100 = gpu_model("a100-40gb")
CELL = GpuConfiguration((InstanceKind("4g", "lite2"), InstanceKind("3g", "lite2")))
QUICK = Window(settle_s=0.0, window_s=0.4, period_s=0.1)


class AWorker:
    pid = None
    last_lines = ()
    energy_source = "estimate:table"

    def __init__(self, fallback: str, stopped: Callable[[], None]) -> None:
        self.fallback = fallback
        self._stopped = stopped

    async def serve(self, request: ServableRequest) -> Served:
        raise NotImplementedError

    async def wait_died(self) -> str:
        raise NotImplementedError

    async def stop(self) -> None:
        self._stopped()


class AServicer:
    """Starts workers; with `context_mw` the board draws more from the first to the last."""

    energy_source = "estimate:table"

    def __init__(self, fake: FakeNvml, *, fallback: str = "", fails: bool = False) -> None:
        self.fake, self.fallback, self.fails = fake, fallback, fails
        self.specs: list[InstanceSpec] = []
        self.living = 0

    async def start(self, spec: InstanceSpec) -> AWorker:
        if self.fails:
            raise ServingError("no weights")
        self.specs.append(spec)
        self.living += 1
        self.fake.set_power(0, idle_mw=60_000, mig_mw=2_000, instance_mw=1_000)
        return AWorker(self.fallback, self._stopped)

    def _stopped(self) -> None:
        self.living -= 1
        self.fake.set_power(0, idle_mw=40_000, mig_mw=2_000, instance_mw=1_000)

    async def close(self) -> None:
        return


def a_board(fake: FakeNvml, *, mode: bool = True) -> None:
    fake.add_gpu(A100, mode=mode)
    fake.set_energy(0, 5_000)
    fake.set_power(0, idle_mw=40_000, mig_mw=2_000, instance_mw=1_000)


def measured(servicer: AServicer | None, *, allow_reset: bool = False) -> dict[str, StatePower]:
    async def main() -> dict[str, StatePower]:
        async with asyncio.timeout(30), NvmlDriver() as driver:
            [gpu] = await driver.gpus()
            with ManagedGpu(gpu, MemoryStore()) as managed:
                bench = PowerBench(
                    managed,
                    servicer=servicer,
                    application="efficientnet_lite",
                    cell=CELL,
                    clock=SystemClock(),
                    window=QUICK,
                    allow_reset=allow_reset,
                )
                found = {state.state: state async for state in bench.run()}
            assert not (await gpu.mode()).current or await gpu.instances() == ()
            return found

    return asyncio.run(main())


def watts(found: dict[str, StatePower], state: str) -> float:
    power = found[state].measured
    assert power is not None, found[state].reason
    assert power.source == "nvml"
    return power.power_w


def test_every_state_has_its_own_power_and_the_gpu_is_left_as_it_was(fake_nvml: FakeNvml) -> None:
    a_board(fake_nvml)
    servicer = AServicer(fake_nvml)
    found = measured(servicer, allow_reset=True)
    assert tuple(found) == STATES
    assert watts(found, "mig_off") == pytest.approx(40.0, rel=0.05)
    assert watts(found, "mig_on") == pytest.approx(42.0, rel=0.05)
    assert watts(found, "instances") == pytest.approx(44.0, rel=0.05)
    assert watts(found, "loaded") == pytest.approx(64.0, rel=0.05)
    assert watts(found, "parked") == pytest.approx(42.0, rel=0.05)
    assert [spec.profile for spec in servicer.specs] == ["4g", "3g"]
    assert all(spec.device.startswith("MIG-") for spec in servicer.specs)
    assert servicer.living == 0

    async def mode() -> bool:
        async with NvmlDriver() as driver:
            return (await (await driver.gpus())[0].mode()).current

    assert asyncio.run(mode())


def test_what_cannot_be_had_is_said_and_no_figure_is_made_up(fake_nvml: FakeNvml) -> None:
    a_board(fake_nvml)
    found = measured(AServicer(fake_nvml, fallback="no CUDA here"))
    assert (found["mig_off"].measured, "--allow-reset" in found["mig_off"].reason) == (None, True)
    assert (found["loaded"].measured, found["loaded"].reason) == (None, "no context on the GPU: no CUDA here")
    assert found["parked"].measured is not None
    assert measured(AServicer(fake_nvml, fails=True))["loaded"].reason == "no weights"
    assert measured(None)["loaded"].measured is None


def test_a_gpu_outside_of_mig_mode_is_measured_there_and_not_switched(fake_nvml: FakeNvml) -> None:
    a_board(fake_nvml, mode=False)
    found = measured(None)
    assert list(found) == ["mig_off"]
    assert watts(found, "mig_off") == pytest.approx(40.0, rel=0.05)


def test_a_gpu_without_a_counter_or_with_instances_is_refused(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)
    with pytest.raises(NodeError, match="no energy counter"):
        measured(None)
    fake_nvml.set_energy(0, 5_000)

    async def main() -> None:
        async with NvmlDriver() as driver:
            [gpu] = await driver.gpus()
            seven = place(A100.profile("7g"), 0)
            await gpu.create(seven.profile, seven.placement)

    asyncio.run(main())
    with pytest.raises(NodeError, match="expected none"):
        measured(None)


# --- the meter over the driver


async def _standing_still(_seconds: float) -> None:
    return


def test_the_counter_of_the_driver_its_faults_and_its_reset(fake_nvml: FakeNvml) -> None:
    a_uuid = fake_nvml.add_gpu(A100)

    async def main() -> None:
        async with NvmlDriver() as driver:
            [gpu] = await driver.gpus()
            meter = NvmlMeter(gpu)
            assert gpu.uuid == a_uuid
            assert await meter.read_j() is None
            # Beyond 32 bits of millijoules, which a busy board passes in three hours.
            fake_nvml.set_energy(0, 2**33 + 7)
            assert await meter.read_j() == pytest.approx((2**33 + 7) / 1e3)
            for failure in (4, 15, 999):  # no permission, GPU lost, unknown
                fake_nvml.fail(1, code=failure)
                assert await meter.read_j() is None
                assert await meter.read_j() is not None
            fake_nvml.set_lost(0)
            assert await meter.read_j() is None
            fake_nvml.set_lost(0, lost=False)

            readings = iter([10_000, 20_000, 5_000])

            class Falling:
                source = "nvml"

                async def read_j(self) -> float | None:
                    fake_nvml.set_energy(0, next(readings))
                    return await meter.read_j()

            with pytest.raises(NodeError, match="fell to 5 J: the driver was loaded anew"):
                await mean_power(Falling(), SystemClock(), QUICK, sleep=_standing_still)

    asyncio.run(main())


# --- into a table


def test_the_command_writes_measured_figures_with_their_provenance(
    fake_nvml: FakeNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOVER_MIG_STATE", str(tmp_path / "records"))
    a_board(fake_nvml)
    table = tmp_path / "albert.json"
    before = read_table(None, "albert", "a100-40gb")
    table.write_text(json.dumps(before))
    arguments = ["profile", "power", "--app", "albert", "--no-models", "--window", "0.4s", "--settle", "1ms"]
    answer = CliRunner().invoke(app, [*arguments, "--into", str(table), "--json"])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    assert [row["state"] for row in told["states"]] == list(STATES)
    after: dict[str, Any] = read_table(table)
    assert after["parked_power_w"] == pytest.approx(42.0, rel=0.1)
    assert after["parked_power_source"].startswith("measured by the GPUs' energy counter (nvml), 20")
    # Nothing was loaded, so the idle power is what it was.
    assert after["idle_power_w"] == before["idle_power_w"]
    assert list(told["replaced"]) == ["parked_power_w"]
    assert after["measurement"]["power"]["states"][1]["measured"]["source"] == "nvml"
    assert load_table("albert", "a100-40gb", path=table).parked_power_w == after["parked_power_w"]
    wrong = CliRunner().invoke(app, [*arguments, "--gpu", "3"])
    assert wrong.exit_code != 0
    assert "expected one of 0" in str(wrong.exception)
