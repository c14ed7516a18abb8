"""Brings one GPU to its target, step by step, and keeps it there.

One task per GPU works towards the newest target; a target that arrives meanwhile is taken up when the present step is
done. A worker that dies is started again. Whatever fails ends in the named phase `failed` with its reason; instances
that are left go on serving, and the change is tried again with growing pauses.
"""

from __future__ import annotations

import asyncio

from clover.agents.gpu_partition import GpuPartition
from clover.agents.instance import Instance
from clover.agents.lifetime import happens_within
from clover.agents.runner_parts import RunnerPorts, instance_spec, instances_telemetry
from clover.bus.messages import Event, GpuPhase, GpuTelemetry
from clover.core.configuration import GpuConfiguration, InstanceKind
from clover.core.retry import RetryPause
from clover.core.transition import Transition, plan_transition
from clover.errors import CloverError
from clover.power.account import GpuAccount, PowerState
from clover.serving.port import Worker
from mig.device import Gpu, GpuInstance
from mig.errors import MigError


class GpuRunner:
    """One GPU of a node."""

    def __init__(self, gpu: Gpu, account: GpuAccount, ports: RunnerPorts) -> None:
        self._gpu = gpu
        self._account = account
        self._ports = ports
        self._wanted: tuple[int, GpuConfiguration] | None = None
        self._wake = asyncio.Event()
        self._target_news = asyncio.Event()
        self._retry = RetryPause()
        self._starting: dict[tuple[int, int], tuple[GpuInstance, str]] = {}
        self._present: GpuConfiguration | None = None
        self._is_off = False
        #: Longest that the power command of the change under way may take, s; 0 if it has none.
        self._power_limit_s = 0.0
        self._phase: GpuPhase = "empty"
        self._reason = "no target yet"
        self._since_s = ports.clock.now_s()
        self._changing_since_s: float | None = None
        self._change_s = 0.0
        self._partition = GpuPartition(gpu)
        self.applied_epoch = 0

    @property
    def index(self) -> int:
        """Index of the GPU on its node."""
        return self._gpu.index

    @property
    def mig_changes(self) -> int:
        """GPU instances created and destroyed so far."""
        return self._partition.changes

    @property
    def change_s(self) -> float:
        """Seconds spent changing so far."""
        running = self._ports.clock.now_s() - self._changing_since_s if self._changing_since_s is not None else 0.0
        return self._change_s + running

    def want(self, epoch: int, wanted: GpuConfiguration) -> None:
        """Set the target; the newest wins."""
        self._wanted = (epoch, wanted)
        self._target_news.set()
        self._wake.set()

    async def run(self) -> None:
        """Work towards targets for ever."""
        async with asyncio.TaskGroup() as watchers:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._phase == "failed":
                    await self._new_target_within(self._retry.pause_s)
                if self._wanted is not None:
                    await self._try(*self._wanted, watchers)

    def telemetry(self, now_s: float) -> GpuTelemetry:
        """Cut the account and describe the GPU."""
        return GpuTelemetry(
            index=self.index,
            uuid=self._gpu.uuid,
            phase=self._phase,
            reason=self._reason,
            since_ms=self._since_s * 1e3,
            applied_epoch=self.applied_epoch,
            instances=instances_telemetry(self._ports.pool.on_gpu(self.index), self._starting.values()),
            energy=self._account.read(now_s),
            energy_at_ms=self._account.cut_s * 1e3,
            power_limit_s=self._power_limit_s,
        )

    # --- convergence

    async def _new_target_within(self, at_most_s: float) -> None:
        self._target_news.clear()
        await happens_within(self._target_news, at_most_s)

    async def _try(self, epoch: int, wanted: GpuConfiguration, watchers: asyncio.TaskGroup) -> None:
        try:
            await self._converge(epoch, wanted, watchers)
        except (CloverError, MigError) as error:
            self._fail(epoch, str(error))

    async def _converge(self, epoch: int, wanted: GpuConfiguration, watchers: asyncio.TaskGroup) -> None:
        if wanted != self._present or self._phase == "failed":
            self._enter("changing", f"to {wanted} for epoch {epoch}")
            if self._is_off and wanted.mode != "off":
                await self._switch(on=True)
            await self._change(wanted, watchers)
            if wanted.mode == "off" and not self._is_off:
                await self._switch(on=False)
            self._present = wanted
        self.applied_epoch = epoch
        phase: GpuPhase = "serving" if wanted.mode == "serving" else wanted.mode
        if self._phase == phase:
            self._ports.changed()
        else:
            self._enter(phase, f"epoch {epoch}: {wanted}")
            self._report("gpu." + phase, f"{wanted}", epoch)

    async def _switch(self, *, on: bool) -> None:
        """Switch the GPU, and say at once that this may take its time."""
        self._power_limit_s = self._ports.power.may_take_s(on=on)
        self._ports.changed()
        await self._ports.power.switch(self._gpu, on=on)
        self._is_off = not on

    async def _change(self, wanted: GpuConfiguration, watchers: asyncio.TaskGroup) -> None:
        await self._partition.destroy_half_made()
        live = await self._partition.live(self._ports.pool.on_gpu(self.index))
        transition = plan_transition(self._gpu.model, live, wanted)
        victims = self._victims(transition)
        early, restart = (transition.beside(), transition.restart) if victims else ((), ())
        devices = {device.id: device for device in await self._gpu.instances()}
        refilled = [(devices[kept.id], variant) for kept, variant in transition.restart]
        if restart and not self._ports.side_by_side:
            restart = ()
        if early or restart:
            # There is room: what comes serves before anything stops.
            await self._start([*await self._partition.create(early), *(refilled if restart else [])], watchers)
        await self._stop(victims)
        for gone in transition.destroy:
            await self._partition.destroy(gone.id)
        fresh = await self._partition.create([one for one in transition.create if one not in early])
        await self._start(fresh if restart else fresh + refilled, watchers)

    def _victims(self, transition: Transition) -> list[Instance]:
        """Return the instances that must stop: those that leave, and what a failed change has left beside others."""
        serving = self._ports.pool.on_gpu(self.index)
        newest = {instance.device.id: instance for instance in serving}
        leaving = {one.id for one in (*transition.destroy, *(kept for kept, _ in transition.restart))}
        return [i for i in serving if i.device.id in leaving or i is not newest[i.device.id]]

    async def _stop(self, victims: list[Instance]) -> None:
        async with asyncio.TaskGroup() as group:
            for instance in victims:
                group.create_task(self._drain_and_stop(instance))

    async def _drain_and_stop(self, instance: Instance) -> None:
        await self._ports.pool.drain(instance)
        self._update_power()
        await instance.worker.stop()

    async def _start(self, fresh: list[tuple[GpuInstance, str]], watchers: asyncio.TaskGroup) -> None:
        for device, variant in fresh:
            self._starting[(device.placement.start, device.id)] = (device, variant)
        self._ports.changed()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._start_one(device, variant)) for device, variant in fresh]
        finally:
            self._starting.clear()
        failures: list[CloverError] = []
        for (device, variant), task in zip(fresh, tasks, strict=True):
            worker = task.result()
            if isinstance(worker, CloverError):
                failures.append(worker)
                continue
            kind = InstanceKind(device.profile.size, variant)
            instance = self._ports.pool.add(self.index, device, kind, worker)
            if worker.fallback:
                self._report("worker.fallback", f"{self._name(device)} {kind}: on the CPU: {worker.fallback}", 0)
            watchers.create_task(self._watch(instance), name=f"watch-{self._name(device)}")
        if failures:
            # Those that did start go on serving; the next try starts only what is missing.
            raise failures[0]

    async def _start_one(self, device: GpuInstance, variant: str) -> Worker | CloverError:
        spec = instance_spec(self._gpu, device, self._ports.application, variant, name=self._name(device))
        try:
            return await self._ports.servicer.start(spec)
        except CloverError as error:
            return error

    async def _watch(self, instance: Instance) -> None:
        reason = await instance.worker.wait_died()
        known = instance.phase in {"draining", "failed"} or instance not in self._ports.pool.on_gpu(self.index)
        if known and not instance.gone:
            return
        in_work = instance.phase == "busy"
        self._ports.pool.fail(instance)
        if not in_work:
            self._ports.pool.remove(instance)
        told = f"{self._name(instance.device)} {instance.kind}: {reason}"
        self._report("worker.died", told, self.applied_epoch, stderr=list(instance.worker.last_lines))
        self._fail(self.applied_epoch, f"worker of {instance.kind} died: {reason}")

    # --- phases

    def _enter(self, phase: GpuPhase, reason: str) -> None:
        now = self._ports.clock.now_s()
        if self._changing_since_s is not None and phase != "changing":
            self._change_s += now - self._changing_since_s
            self._changing_since_s = None
        if phase == "changing" and self._changing_since_s is None:
            self._changing_since_s = now
        self._phase, self._reason, self._since_s = phase, reason, now
        self._power_limit_s = 0.0
        self._update_power()
        self._ports.changed()

    def _fail(self, epoch: int, reason: str) -> None:
        self._retry.failed(self._ports.clock.now_s())
        self._enter("failed", reason)
        self._wake.set()
        self._report("gpu.failed", reason, epoch)

    def _update_power(self) -> None:
        states: dict[GpuPhase, PowerState] = {"changing": "changing", "parked": "parked", "off": "off"}
        devices = {instance.device.id: instance.device for instance in self._ports.pool.on_gpu(self.index)}
        occupied = sum(device.profile.compute_slices for device in devices.values())
        self._account.set_state(
            states.get(self._phase, "serving"), occupied_slices=occupied, now_s=self._ports.clock.now_s()
        )

    def _report(self, kind: str, reason: str, epoch: int, **data: object) -> None:
        self._ports.report(
            Event(
                at_ms=self._ports.clock.now_ms(),
                kind=kind,
                source=f"node:{self._ports.node}",
                subject=f"{self._ports.node}/gpu{self.index}",
                reason=reason,
                epoch=epoch,
                data=data,
            )
        )

    def _name(self, device: GpuInstance) -> str:
        return f"{self._ports.node}/gpu{self.index}/{device.profile.size}@{device.placement.start}"
