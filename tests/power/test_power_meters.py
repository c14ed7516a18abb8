"""Meters over a fake sysfs tree and a GPU whose counter the test sets: wraps, permissions, silence, and the account."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support import run

from clover.agents.metering import CounterStore, NodeMetering
from clover.power.account import GpuAccount
from clover.power.host_estimate import CpuEstimateMeter, busy_core_seconds
from clover.power.idle import IdlePower
from clover.power.nvml import NvmlMeter
from clover.power.rapl import RaplMeter
from mig.errors import MigError
from mig.profiles import gpu_model
from mig.simulated import SimulatedGpu


class Standing:
    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    def now_ms(self) -> float:
        return 1e3 * self.at_s


# --- RAPL -------------------------------------------------------------------------------------------------------------


def _zone(root: Path, path: str, name: str, energy_uj: int, range_uj: int = 1_000_000_000) -> Path:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(name + "\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder / "energy_uj"


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Path]:
    """Two sockets as the kernel shows them: flat links, children beside their parents, a second tree of the same."""
    return {
        "p0": _zone(tmp_path, "intel-rapl:0", "package-0", 100_000_000),
        "core": _zone(tmp_path, "intel-rapl:0:0", "core", 50_000_000),
        "dram0": _zone(tmp_path, "intel-rapl:0:1", "dram", 10_000_000),
        "p1": _zone(tmp_path, "intel-rapl:1", "package-1", 200_000_000),
        "dram1": _zone(tmp_path, "intel-rapl:1:0", "dram", 20_000_000),
        "psys": _zone(tmp_path, "intel-rapl:2", "psys", 900_000_000),
        "copy": _zone(tmp_path, "intel-rapl-mmio:0", "package-0", 100_000_000),
        "again": _zone(tmp_path, "intel-rapl:3", "package-0", 100_000_000),
        "root": tmp_path,
    }


def _add(file: Path, energy_uj: int, range_uj: int = 1_000_000_000) -> None:
    file.write_text(str((int(file.read_text()) + energy_uj) % range_uj))


def test_rapl_counts_packages_and_memory_once(tree: dict[str, Path]) -> None:
    meter = RaplMeter.find(tree["root"])
    assert meter is not None
    assert sorted(meter.zones) == ["dram", "dram", "package-0", "package-1"]
    assert meter.read_j() == 0.0
    for name in ("p0", "core", "dram0", "p1", "dram1", "psys", "copy", "again"):
        _add(tree[name], 1_000_000)
    assert meter.read_j() == pytest.approx(4.0)


def test_rapl_wraps_around(tree: dict[str, Path]) -> None:
    meter = RaplMeter.find(tree["root"])
    assert meter is not None
    for _ in range(7):
        _add(tree["p1"], 700_000_000)
        total = meter.read_j()
    assert total == pytest.approx(7 * 700.0)


def test_rapl_that_cannot_be_read_for_a_while_is_unknown_and_loses_nothing(tree: dict[str, Path]) -> None:
    meter = RaplMeter.find(tree["root"])
    assert meter is not None
    kept = tree["p0"].read_text()
    tree["p0"].write_text("")
    _add(tree["p1"], 5_000_000)
    assert meter.read_j() is None
    tree["p0"].write_text(kept)
    _add(tree["p0"], 3_000_000)
    assert meter.read_j() == pytest.approx(8.0)
    tree["p1"].unlink()
    assert meter.read_j() is None


def test_rapl_without_permission_or_without_zones_is_no_meter(tmp_path: Path) -> None:
    assert RaplMeter.find(tmp_path / "none") is None
    zone = _zone(tmp_path, "intel-rapl:0", "package-0", 5)
    # As root every file can be read, so that a folder in its place stands for the refusal.
    zone.unlink()
    zone.mkdir()
    assert RaplMeter.find(tmp_path) is None


# --- estimate ---------------------------------------------------------------------------------------------------------


def test_the_estimate_is_busy_time_and_rest_and_says_so() -> None:
    clock, busy = Standing(), [100.0]
    meter = CpuEstimateMeter(clock, busy_s=lambda: busy[0], cores=4, core_w=10.0, idle_core_w=2.0)
    assert meter.read_j() == 0.0
    clock.at_s, busy[0] = 10.0, 115.0
    assert meter.read_j() == pytest.approx(10 * 4 * 2.0 + 15 * 10.0)
    assert meter.source == "estimate:cpu"
    assert CpuEstimateMeter(clock, busy_s=lambda: None).read_j() is None


def test_this_host_tells_how_busy_it_was() -> None:
    busy = busy_core_seconds()
    assert busy is None or busy > 0.0


# --- NVML -------------------------------------------------------------------------------------------------------------


class Board(SimulatedGpu):
    """A GPU whose counter the test sets: mJ, None, or an error."""

    counter_mj: Any = None

    async def energy_mj(self) -> int | None:
        if isinstance(self.counter_mj, Exception):
            raise self.counter_mj
        if self.counter_mj == "hangs":
            await asyncio.Event().wait()
        return self.counter_mj


def _board() -> Board:
    return Board(gpu_model("a100-40gb"), 0, seed=1)


def test_nvml_reads_the_parent_gpus_counter_and_its_failures_are_unknown() -> None:
    async def main() -> None:
        board = _board()
        meter = NvmlMeter(board)
        assert await meter.read_j() is None
        board.counter_mj = 1_234_567
        assert await meter.read_j() == pytest.approx(1234.567)
        board.counter_mj = MigError("GPU is lost")
        assert await meter.read_j() is None

    run(main())


def _account(**more: Any) -> GpuAccount:
    power_w = {"a": 10.0, "b": 30.0}
    return GpuAccount(
        idle_power_w=40.0, parked_power_w=25.0, compute_slices=7, now_s=0.0, metered=True,
        dynamic_power_w=lambda variant, _: power_w[variant], **more,
    )  # fmt: skip


def test_a_tick_is_split_as_defined() -> None:
    account = _account()
    account.set_state("serving", occupied_slices=4, now_s=0.0)
    account.take_counter(1000.0, 0.0)
    account.begin_work(1, "a", "2g", 0.0)
    account.begin_work(2, "b", "2g", 5.0)
    account.end_work(1, 10.0)
    account.take_counter(1900.0, 10.0)
    got = account.read(10.0)
    # 900 J: 400 J idle by sevenths, the rest by busy time x table (100 : 150).
    assert got.idle_j == pytest.approx(400 * 4 / 7)
    assert got.unallocated_j == pytest.approx(400 * 3 / 7)
    assert got.requests_j == {"a": pytest.approx(200.0), "b": pytest.approx(300.0)}
    # The counter may stand still for a moment: nothing is invented, b is still at work.
    account.take_counter(1900.0, 11.0)
    assert account.read(11.0).requests_j == got.requests_j


def test_idle_power_is_measured_per_configuration_and_used_from_then_on() -> None:
    account = _account()
    account.set_state("serving", occupied_slices=7, now_s=0.0)
    account.take_counter(0.0, 0.0)
    for second in range(1, 21):
        account.take_counter(60.0 * second, float(second))
    assert account.read(20.0).idle_j == pytest.approx(1200.0)
    account.begin_work(1, "a", "7g", 20.0)
    account.take_counter(1200.0 + 100.0, 21.0)
    got = account.read(21.0)
    # 60 W is what this configuration draws at rest, not the table's 40 W.
    assert got.requests_j["a"] == pytest.approx(40.0)
    power = IdlePower(serving_w=40.0, parked_w=25.0)
    assert (power.of("serving", 3), power.of("parked", 0), power.of("off", 0)) == (40.0, 25.0, 0.0)


def test_a_meter_that_does_not_answer_makes_nothing_up_and_the_next_reading_has_it_all(tmp_path: Path) -> None:
    async def main() -> None:
        clock, board = Standing(), _board()
        store = CounterStore(tmp_path / "counters.json")
        metering = NodeMetering(clock, gpus={board.uuid: NvmlMeter(board)}, store=store)
        account = _account(last_counter_j=metering.last_counter_j(board.uuid))
        account.set_state("serving", occupied_slices=7, now_s=0.0)
        metering.book_into(board.uuid, account)
        board.counter_mj = 5_000_000
        await metering.read()
        clock.at_s, board.counter_mj = 10.0, MigError("no answer")
        await metering.read()
        assert (account.read(10.0).idle_j, account.cut_s) == (0.0, 0.0)
        clock.at_s, board.counter_mj = 20.0, 5_700_000
        await metering.read()
        assert account.read(20.0).idle_j == pytest.approx(700.0)
        assert metering.energy_source("simulated") == "nvml"
        # The next agent knows what was used while there was none.
        again = NodeMetering(clock, gpus={board.uuid: NvmlMeter(board)}, store=store)
        next_account = _account(last_counter_j=again.last_counter_j(board.uuid))
        again.book_into(board.uuid, next_account)
        board.counter_mj = 6_000_000
        await again.read()
        got = next_account.read(20.0)
        assert (got.unresolved_j, got.gap_measured, got.idle_j) == (pytest.approx(300.0), True, 0.0)

    run(main())


def test_a_meter_that_hangs_is_given_up_at_this_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        clock, board = Standing(), _board()
        metering = NodeMetering(clock, gpus={board.uuid: NvmlMeter(board)})
        account = _account()
        metering.book_into(board.uuid, account)
        board.counter_mj = "hangs"
        await metering.read()
        assert account.counter_j is None

    monkeypatch.setattr("clover.agents.metering.READ_WITHIN_S", 0.01)
    run(main())


def test_a_driver_that_was_loaded_anew_is_estimated_and_said() -> None:
    account = _account()
    account.set_state("serving", occupied_slices=7, now_s=0.0)
    account.take_counter(9000.0, 0.0)
    account.take_counter(100.0, 10.0)
    got = account.read(10.0)
    assert got.unresolved_j == pytest.approx(40.0 * 10.0 - 100.0)
    assert got.idle_j == pytest.approx(100.0)
