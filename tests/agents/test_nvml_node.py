"""The node agent on real GPUs: over the fake driver, with worker processes that really start."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from helper_support import a_helper
from nvml_fake import FakeNvml
from nvml_node import Node, ask, devices, within
from support import eventually

from clover.agents.nvml_node import count_usable, node_gpus
from clover.core.outcome import Outcome
from clover.errors import NodeError
from clover.serving.availability import missing_packages
from clover.serving.process import TORCH_WORKER
from clover.serving.samples import sample_inputs
from mig.apply import apply
from mig.managed import ManagedGpu
from mig.nvml import NvmlDriver
from mig.placement import place
from mig.profiles import gpu_model
from mig.store import FileStore, MemoryStore

A100, A30 = gpu_model("a100-40gb"), gpu_model("a30")


@pytest.fixture(autouse=True)
def _own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOVER_MIG_STATE", str(tmp_path / "records"))


# --- opening


def test_gpus_that_cannot_be_used_are_fenced_and_the_others_locked(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)
    fake_nvml.add_gpu(A100, mode=False)
    fake_nvml.add_gpu(A30)
    fake_nvml.add_gpu(A100, supports_mig=False)
    for _ in range(3):
        fake_nvml.add_gpu(A100)
    fake_nvml.set_activation(6, "after_reset")

    async def run() -> None:
        store = FileStore()
        async with NvmlDriver() as driver:
            gpus = await driver.gpus()
            seven = place(A100.profile("7g"), 0)
            await gpus[4].create(seven.profile, seven.placement)
            held = ManagedGpu(gpus[5], store)
        with held:
            async with node_gpus(None, board="a100-40gb") as opened:
                assert [gpu.index for gpu in opened.gpus] == [0, 6]
                fenced = {notice.gpu: notice.reason for notice in opened.notices if notice.kind == "gpu.fenced"}
                assert sorted(fenced) == [1, 2, 3, 4, 5]
                assert "MIG mode is off" in fenced[1]
                assert "board a30: expected a100-40gb" in fenced[2]
                assert "were not created here" in fenced[4]
                assert "is managed by process" in fenced[5]
                # Somebody else is refused as long as the agent runs.
                second = ManagedGpu(opened.gpus[0], FileStore())
                with pytest.raises(Exception, match="is managed by process"), second:
                    pass
        assert await count_usable(None, "a100-40gb") == 4

    within(run)


def test_a_node_without_a_usable_gpu_says_why_of_each(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100, mode=False)
    fake_nvml.add_gpu(A30)

    async def run() -> None:
        with pytest.raises(NodeError, match=r"MIG mode is off.*; GPU 1: board a30") as caught:
            async with node_gpus(None, board="a100-40gb"):
                pass
        assert "clover mig enable" in caught.value.hint
        with pytest.raises(NodeError, match="MIG mode is off"):
            await count_usable(None, "a100-40gb")

    within(run)


def test_what_is_ours_is_taken_over_and_what_is_half_made_goes(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)

    async def run() -> None:
        store = MemoryStore()
        async with NvmlDriver() as driver:
            (gpu,) = await driver.gpus()
            made = (await apply(gpu, ("4g", "3g"), store)).instances
            assert made is not None
        async with node_gpus(None, board="a100-40gb", store=store) as opened:
            assert await opened.gpus[0].instances() == made
            assert [notice.kind for notice in opened.notices] == ["gpu.adopted"]
            assert opened.gpus[0].record.apply is None

    within(run)


# --- running


def test_workers_start_after_creation_and_end_before_destruction(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)
    fake_nvml.set_energy(0, 5_000_000)

    async def run() -> None:
        node = Node(fake_nvml)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.run())
            first = await node.want(g7="lite2")
            assert (first.gpus[0].phase, first.mig_changes) == ("serving", 1)
            second = await node.want(g4="lite2", g3="lite0")
            assert second.gpus[0].phase == "serving", second.gpus[0].reason
            kept = {each.profile: each.uuid for each in second.gpus[0].instances}
            # The 3g stays although a process holds it; only the 4g goes.
            third = await node.want(g3="lite0", g2="lite0", g1="lite0")
            assert {each.profile: each.uuid for each in third.gpus[0].instances}["3g"] == kept["3g"]
            assert set(node.servicer.held) == set(devices(fake_nvml))
            assert {spec.device for spec in node.servicer.started} >= set(devices(fake_nvml))
            assert all(spec.memory_mib and spec.multiprocessors for spec in node.servicer.started)
            fake_nvml.set_energy(0, 5_050_000)

            async def metered() -> bool:
                state = (await node.bus.node_states())["n1"]
                energy = state.gpus[0].energy
                parts = energy.idle_j + energy.unallocated_j + energy.transition_j + sum(energy.requests_j.values())
                return abs(parts - 50.0) < 1e-6 and state.energy_source == "nvml"

            await eventually(metered)
            node.stop.set()
        assert node.servicer.held == {}

    within(run)


def test_a_request_is_answered_by_a_process_on_the_device_that_was_created_for_it(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)

    async def run() -> None:
        node = Node(fake_nvml)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.run())
            await node.want(g7="lite2")
            (uuid,) = devices(fake_nvml)
            ((_, pid),) = node.servicer.held.values()
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")  # noqa: ASYNC240 - at once
            assert f"CUDA_VISIBLE_DEVICES={uuid}".encode() in environment
            await ask(node, b"abc")
            replies, _ = await node.bus.replies("p", "0-0", block_s=20.0)
            assert (replies[0].outcome, replies[0].payload) == (Outcome.OK, b"cba")
            assert (replies[0].energy_source, replies[0].energy_j) == ("estimate:table", 1.0)
            node.stop.set()

    within(run)


def test_an_agent_that_starts_again_keeps_what_it_had(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)

    async def run() -> None:
        uuids: list[set[str]] = []
        for _ in range(2):
            node = Node(fake_nvml)
            async with asyncio.TaskGroup() as group:
                group.create_task(node.run())
                state = await node.want(g4="lite2", g3="lite0")
                assert state.gpus[0].phase == "serving"
                uuids.append({each.uuid for each in state.gpus[0].instances})
                kinds = [event.kind for event in await node.events()]
                node.stop.set()
        assert uuids[0] == uuids[1]
        assert (state.mig_changes, "gpu.adopted" in kinds) == (0, True)

    within(run)


def test_an_instance_that_somebody_else_holds_fails_the_change_and_the_rest_serves_on(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)

    async def run() -> None:
        node = Node(fake_nvml)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.run())
            await node.want(g4="lite2", g3="lite0")
            four = next(spec.device for spec in node.servicer.started if spec.profile == "4g")
            stranger = devices(fake_nvml)[four]
            node.servicer.held.pop(four)
            failed = await node.want(g3="lite0", g2="lite0")
            assert failed.gpus[0].phase == "failed"
            assert f"instance {stranger} is in use by process" in failed.gpus[0].reason
            assert [each.profile for each in failed.gpus[0].instances] == ["3g"]
            fake_nvml.leave(0, stranger)

            async def serving() -> bool:
                return (await node.bus.node_states())["n1"].gpus[0].phase == "serving"

            await eventually(serving, limit_s=30.0)
            node.stop.set()

    within(run, 90.0)


def test_an_agent_without_rights_works_through_a_helper(fake_nvml: FakeNvml, tmp_path: Path) -> None:
    fake_nvml.add_gpu(A100)
    path = tmp_path / "helper.sock"

    async def run() -> None:
        async with NvmlDriver() as driver, a_helper(path, await driver.gpus()):
            node = Node(fake_nvml, helper=path)
            async with asyncio.TaskGroup() as group:
                group.create_task(node.run())
                state = await node.want(g4="lite2", g3="lite0")
                assert state.gpus[0].phase == "serving"
                assert {each.uuid for each in state.gpus[0].instances} == set(devices(fake_nvml))
                assert any("through the helper" in event.reason for event in await node.events())
                node.stop.set()

    within(run)


@pytest.mark.models
@pytest.mark.skipif(bool(missing_packages()), reason="needs the `models` extra")
def test_real_models_without_cuda_answer_from_the_cpu_and_everything_says_so(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(A100)
    fake_nvml.set_energy(0, 5_000_000)

    async def run() -> None:
        node = Node(fake_nvml, command=TORCH_WORKER)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.run())
            state = await node.want(g4="lite1", g3="lite0")
            assert state.gpus[0].phase == "serving", state.gpus[0].reason
            for instance in state.gpus[0].instances:
                assert f"finds no CUDA device {instance.uuid}" in instance.fallback
            fallbacks = [event for event in await node.events() if event.kind == "worker.fallback"]
            assert len(fallbacks) == 2
            await ask(node, sample_inputs()[0].payload)
            replies, _ = await node.bus.replies("p", "0-0", block_s=20.0)
            assert replies[0].outcome is Outcome.OK
            assert json.loads(replies[0].payload)["label"]
            assert replies[0].energy_source == "estimate:tdp"

            async def marked() -> bool:
                now = (await node.bus.node_states())["n1"]
                return now.energy_source == "estimate:tdp+nvml" and bool(now.gpus[0].energy.requests_j)

            await eventually(marked)
            node.stop.set()

    within(run, 110.0)
