"""Measuring in a closed loop, in virtual time and on fake workers, and the tables that come of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from clover.agents.bench import Bench
from clover.agents.bench_settings import BenchSettings
from clover.agents.path_bench import PathSettings, measure_path
from clover.agents.sweep import SweepFile, SweepHead, sweep
from clover.analysis.profiles import differences
from clover.bus.memory import MemoryBus
from clover.bus.messages import Request
from clover.bus.values import Admission
from clover.catalog import load_service, unmeasured_service
from clover.core.application import ChangeTimes
from clover.core.configuration import GpuConfiguration, InstanceKind
from clover.core.profiling import (
    CellMeasurement,
    InstanceMeasurement,
    assignment_cells,
    single_cells,
)
from clover.core.table_fit import Provenance, base_p95, fit_table
from clover.errors import ConfigurationError
from clover.performance_tables import load_table, read_table
from clover.serving.simulated import SimulatedServicer
from clover.sim.clock import VirtualClock, run_virtual
from mig.codes import CODES
from mig.profiles import gpu_model
from mig.simulated import SimulatedGpu

SIZES = ("7g", "4g", "3g", "2g", "1g")
HEAD = SweepHead(
    application="albert",
    backend="sim",
    board="a100-40gb",
    gpus=1,
    weights="published weights",
    requests=400,
    warm_up=3,
    host="test",
)


def _provenance(gpu_model_name: str = "a100-40gb") -> Provenance:
    return Provenance(
        gpu_model=gpu_model_name,
        date="2026-01-01",
        host="a test",
        energy_source="simulated",
        weights="published weights",
        idle_power_w=50.0,
        parked_power_w=25.0,
        power_source="of the simulated table",
        change=ChangeTimes(create_s=1.0, destroy_s=1.0, worker_start_s=0.0, provenance="assumed"),
    )


def _bench(gpus: int = 1, **settings: Any) -> Bench:
    model = load_service("albert", "a100-40gb")
    return Bench(
        gpus=[SimulatedGpu(gpu_model("a100-40gb"), index, seed=index, sleep=asyncio.sleep) for index in range(gpus)],
        servicer=SimulatedServicer(model=model, rng=Random(1), contention=lambda: 0.0),
        application=model.application,
        inputs=[("application/octet-stream", b"")],
        clock=VirtualClock(asyncio.get_running_loop()),
        settings=BenchSettings(**settings),
    )


def _fitting() -> list[GpuConfiguration]:
    model = load_service("albert", "a100-40gb")
    cells = single_cells([v.name for v in model.application.variants], SIZES)
    return [c for c in cells if model.fits(c.instances[0].variant, c.instances[0].profile)]


def test_a_sweep_of_the_simulation_gives_back_its_own_table(tmp_path: Path) -> None:
    cells = _fitting()

    async def scenario() -> list[CellMeasurement]:
        file = SweepFile(tmp_path / "cells.jsonl", HEAD)
        bench = _bench(requests=400, limit_s=1e6)
        async for measured in sweep(file, cells, bench.measure):
            assert measured.outcome == "ok", measured.reason
        return file.newest()

    measured = run_virtual(scenario())
    model = load_service("albert", "a100-40gb")
    table = fit_table(model.application, measured, _provenance(), "7g")
    path = tmp_path / "albert.json"
    path.write_text(json.dumps(table))
    fitted = load_service("albert", "a100-40gb", path=path)
    for cell in cells:
        (kind,) = cell.instances
        expected = model.gpu_ms(kind.variant, kind.profile)
        assert fitted.gpu_ms(kind.variant, kind.profile) == pytest.approx(expected, rel=0.05)
        assert fitted.host_ms(kind.variant, 0.0) == pytest.approx(model.host_ms(kind.variant, 0.0), rel=0.1)
    for name in ("host_lognormal_sigma", "gpu_lognormal_sigma"):
        assert getattr(fitted.table, name) == pytest.approx(getattr(model.table, name), rel=0.1, abs=0.005)
    assert fitted.table.sla_p95_ms == pytest.approx(1.02 * base_p95(fitted, "7g"), abs=0.1)
    assert fitted.table.change.worker_start_s == pytest.approx(model.table.change.worker_start_s, abs=0.01)
    instances = read_table(path)["measurement"]["instances"]
    assert len(instances) == len(cells)
    assert all(row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] for row in instances)


def test_a_sweep_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    cells = _fitting()[:5]
    path = tmp_path / "cells.jsonl"

    async def scenario() -> list[str]:
        bench = _bench(requests=3, warm_up=0)
        asked: list[str] = []

        async def measure(cell: GpuConfiguration) -> CellMeasurement:
            asked.append(str(cell))
            return await bench.measure(cell)

        running = sweep(SweepFile(path, HEAD), cells, measure)
        for _ in range(2):
            await anext(running)
        await running.aclose()
        # Killed while it wrote.
        with path.open("ab") as file:
            file.write(b'{"cell": "7g:')
        path.write_bytes(path.read_bytes() + b"\n")
        async for _ in sweep(SweepFile(path, HEAD), cells, measure):
            pass
        return asked

    assert run_virtual(scenario()) == [str(cell) for cell in cells]
    assert len(SweepFile(path, HEAD).newest()) == 5


def test_a_file_of_another_sweep_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    SweepFile(path, HEAD)
    other = SweepHead(**{**{name: getattr(HEAD, name) for name in HEAD.__struct_fields__}, "requests": 7})
    with pytest.raises(ConfigurationError, match="another sweep, it differs in requests"):
        SweepFile(path, other)
    path.write_text("nonsense\n")
    with pytest.raises(ConfigurationError, match="not the file of a sweep"):
        SweepFile(path, HEAD)


def test_all_instances_are_busy_until_the_slowest_has_enough() -> None:
    async def scenario() -> CellMeasurement:
        cell = GpuConfiguration((InstanceKind("4g", "xxlarge"), InstanceKind("3g", "base")))
        return await _bench(gpus=2, requests=20).measure(cell)

    measured = run_virtual(scenario())
    counts = [(i.gpu, i.variant, len(i.service_ms)) for i in measured.instances]
    assert [(gpu, variant) for gpu, variant, _ in counts] == [(0, "xxlarge"), (0, "base"), (1, "xxlarge"), (1, "base")]
    slow = [n for _, variant, n in counts if variant == "xxlarge"]
    assert min(slow) == 20
    assert all(n > 20 for _, variant, n in counts if variant == "base")


def test_a_client_pauses_between_its_requests() -> None:
    async def scenario() -> tuple[CellMeasurement, float]:
        loop = asyncio.get_running_loop()
        bench = _bench(requests=50, warm_up=0, limit_s=1e6, think_s=2.0)
        began_s = loop.time()
        measured = await bench.measure(GpuConfiguration((InstanceKind("7g", "base"),)))
        return measured, loop.time() - began_s

    measured, seconds = run_virtual(scenario())
    (instance,) = measured.instances
    assert len(instance.service_ms) == 50
    # 50 exponential pauses of 2 s on average, beside a few seconds of service.
    assert 60.0 < seconds < 160.0


def test_a_table_says_what_requests_take_beside_and_of_which_batches_it_is(tmp_path: Path) -> None:
    application = unmeasured_service("efficientnet_lite", "cpu").application
    cells = [
        CellMeasurement(cell=f"7g:{v}", outcome="ok", instances=[_instance(v)]) for v in ("lite0", "lite1", "lite2")
    ]
    alone = fit_table(application, cells, _provenance("cpu"), "7g")
    assert (alone["transport_ms"], alone["transport_source"], alone["batch_size"]) == (0.0, "not measured", 1)
    assert "one client per instance, back to back" in alone["provenance"]
    story = replace(_provenance("cpu"), path_ms=(4.0, 6.0, 8.0), batch_size=4, think_s=0.1)
    table = fit_table(application, cells, story, "7g")
    assert (table["transport_ms"], table["batch_size"]) == (6.0, 4)
    assert table["transport_source"].startswith("mean of 3 requests through a server on this host")
    assert "pauses of 100 ms on average" in table["provenance"]
    assert "6 answers of 4 requests" in table["provenance"]
    path = tmp_path / "fours.json"
    path.write_text(json.dumps(table))
    model = load_service("efficientnet_lite", "cpu", path=path)
    assert (model.table.transport_ms, model.table.batch_size) == (6.0, 4)
    # The transport, and twice three quarters of the 13 ms of a batch: of its own, and of the one before.
    assert model.beside_ms("lite0", "7g") == pytest.approx(6.0 + 2 * 0.75 * 13.0)
    assert table["sla_p95_ms"] > alone["sla_p95_ms"]


def test_the_path_of_requests_is_what_the_bus_takes() -> None:
    """In virtual time on the in-process bus nothing takes any time, so that all of it is what is added here."""

    class SlowBus(MemoryBus):
        async def admit(self, requests: Sequence[Request], *, bound: int) -> list[Admission]:
            await asyncio.sleep(0.004)
            return await super().admit(requests, bound=bound)

    async def scenario() -> list[float]:
        clock = VirtualClock(asyncio.get_running_loop())
        bus = SlowBus("path", clock.now_ms)
        return await measure_path(
            producer=bus,
            node=bus,
            model=load_service("albert", "a100-40gb"),
            board=gpu_model("a100-40gb"),
            inputs=[("text/plain", b"?")],
            clock=clock,
            rng=Random(1),
            settings=PathSettings(requests=5, warm_up=1),
        )

    assert run_virtual(scenario()) == pytest.approx([4.0] * 5, abs=0.01)


def test_the_original_sweep_has_every_distinct_assignment_once() -> None:
    cells = assignment_cells([CODES[18]], ["a", "b", "c", "d"])
    # Multisets of 7 out of 4.
    assert len(cells) == 120
    cells = assignment_cells([CODES[code] for code in (0, 1, 3, 4, 7, 10, 17)], ["a", "b"])
    assert len({str(cell) for cell in cells}) == len(cells) == 2 + 4 + 8 + 3 + 6 + 10 + 12


def _instance(variant: str, profile: str = "7g") -> InstanceMeasurement:
    return InstanceMeasurement(
        profile=profile,
        variant=variant,
        gpu=0,
        service_ms=[12.0, 14.0],
        instance_ms=[10.0, 12.0],
        energy_j=[1.0, 1.0],
        start_s=2.0,
    )


def test_what_did_not_fit_is_in_the_table_and_what_is_missing_is_told() -> None:
    application = unmeasured_service("efficientnet_lite", "cpu").application
    cells = [
        CellMeasurement(cell=f"7g:{v}", outcome="ok", instances=[_instance(v)]) for v in ("lite0", "lite1", "lite2")
    ]
    small = CellMeasurement(cell="1g:lite2", outcome="out_of_memory", reason="too large")
    table = fit_table(application, [*cells, small], _provenance("cpu"), "7g")
    assert table["variants"]["lite2"]["out_of_memory_on"] == ["1g"]
    assert table["measurement"]["not_measured"] == {"1g:lite2": "out_of_memory: too large"}
    assert table["variants"]["lite0"] == {
        "host_ms": 2.0,
        "dynamic_energy_j": 1.0,
        "service_ms": {"7g": 11.0},
        "out_of_memory_on": [],
    }
    failed = CellMeasurement(cell="7g:lite1", outcome="failed", reason="no weights")
    with pytest.raises(ValueError, match="lite1 has no measurement: no weights"):
        fit_table(application, [cells[0], cells[2], failed], _provenance("cpu"), "7g")
    with pytest.raises(ValueError, match="lite2 on 7g has not been measured"):
        half = CellMeasurement(cell="3g:lite2", outcome="ok", instances=[_instance("lite2", "3g")])
        fit_table(application, [*cells[:2], half], _provenance("cpu"), "7g")


def test_tables_are_compared_figure_by_figure() -> None:
    first = read_table(None, "albert", "a100-40gb")
    second = json.loads(json.dumps(first))
    second["sla_p95_ms"] *= 2
    del second["variants"]["base"]["service_ms"]["1g"]
    rows = {row["figure"]: row for row in differences(first, second)}
    assert {name for name, row in rows.items() if row["change_pct"] not in {0.0, None}} == {"sla_p95_ms"}
    assert rows["sla_p95_ms"]["change_pct"] == 100.0
    gone = rows["variants.base.service_ms.1g"]
    assert (gone["second"], gone["change_pct"]) == (None, None)
    assert gone["first"] > 0


def test_optional_variants_may_be_left_out_of_a_table_others_not() -> None:
    assert [v.name for v in load_service("efficientnet", "a100-40gb").application.variants] == ["b1", "b3", "b5", "b7"]
    assert load_table("efficientnet", "a100-40gb").application == "efficientnet"
    only = load_service("efficientnet", "a100-40gb", variant="b3")
    assert only.application.largest.name == only.application.smallest.name == "b3"
    with pytest.raises(ConfigurationError, match="variant 'b9' of efficientnet: unknown, expected one of b1, b3"):
        load_service("efficientnet", "a100-40gb", variant="b9")
