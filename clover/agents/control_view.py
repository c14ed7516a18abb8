"""What the controller sees: follows telemetry and the grid, reads counters and overrides, and tells the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from clover.agents.overriding import Overrides
from clover.agents.sampling import Sampler
from clover.agents.translate import live_configuration, serving_configuration
from clover.bus.messages import CalibrationData, IntensityReading, NodeTelemetry
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.core import control
from clover.core.belonging import Kind, why_foreign
from clover.core.calibration import Calibrator, Factors
from clover.core.clock import Clock
from clover.core.load import LoadEstimator

#: Takes an event for people: kind, subject, reason, data.
Tell = Callable[[str, str, str, CalibrationData | None], None]


class ControlView:
    """Turns messages and counters into events.

    Args:
        bus, clock: Ports.
        expected: What nodes must be; others are refused.
        load: Estimates the arrival rate.
        sampler, calibrator: Compare what is measured with the table.
        overrides: What people want.
        put: Takes events for the machine.
        calibrate: Called when the table in use must change, before the machine hears of it.
        tell: Takes events for people.
        planned_rps: The load that is planned for.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        clock: Clock,
        expected: Kind,
        load: LoadEstimator,
        sampler: Sampler,
        calibrator: Calibrator,
        overrides: Overrides,
        put: Callable[[control.Event], None],
        calibrate: Callable[[Factors], None],
        tell: Tell,
        planned_rps: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._expected = expected
        self._load = load
        self._sampler = sampler
        self._calibrator = calibrator
        self._overrides = overrides
        self._put = put
        self._calibrate = calibrate
        self._tell = tell
        self._planned_rps = planned_rps
        #: The newest figure for the grid that was not stale.
        self.intensity: IntensityReading | None = None
        #: The newest telemetry of each node.
        self.nodes: dict[str, NodeTelemetry] = {}
        #: Nodes that were taken by hand, as far as the machine knows.
        self._taken: frozenset[str] = frozenset()
        #: Highest epoch that a node has reported.
        self.reached = 0

    async def follow(self, *, block_s: float) -> None:
        """Take in what is known, then everything that comes."""
        # First where to go on from: what is published while the known is read comes twice rather than never.
        cursors = {feed: await self._bus.newest_id(feed) for feed in (Feed.CARBON, Feed.TELEMETRY)}
        now = await self._bus.carbon_now()
        if isinstance(intensity := now.get("intensity"), IntensityReading):
            self._see_intensity(intensity)
        for telemetry in (await self._bus.node_states()).values():
            self._see_node(telemetry)
        while True:
            for entry in await self._bus.follow(cursors, block_s=block_s):
                cursors[entry.feed] = entry.id
                if isinstance(entry.message, IntensityReading):
                    self._see_intensity(entry.message)
                elif isinstance(entry.message, NodeTelemetry):
                    self._see_node(entry.message)

    async def tick(self, *, every_s: float) -> None:
        """Look at what sends no messages: the queue, overrides, and that nothing was heard."""
        await self._look(every_s)
        while True:
            await asyncio.sleep(every_s)
            await self._look(every_s)
            self._put(control.Tick())

    async def _look(self, every_s: float) -> None:
        await self.look_at_override()
        queue = await self._bus.queue()
        self._load.waking_s = waking_s(self.nodes.values())
        load = self._load.observe(self._clock.now_s(), queue.admitted, expected_rps=self._planned_rps())
        if load is not None:
            self._put(control.LoadSeen(load=load))
        age_s = self._sampler.age_s(self._clock.now_ms(), every_s=every_s)
        answered, late = self._sampler.answers()
        self._put(control.ServiceSeen(answered=answered, late=late, oldest_wait_s=queue.oldest_age_s, age_s=age_s))
        self._look_for_drift()

    async def look_at_override(self) -> None:
        """Tell the machine what people have decided, if that has changed."""
        override = await self._bus.override()
        if (taken := frozenset(override.nodes)) != self._taken:
            self._taken = taken
            self._put(control.TakenSeen(nodes=taken))
        if changed := self._overrides.take(override, self._clock.now_ms()):
            event, said = changed
            self._put(event)
            for kind, subject, reason in said:
                self._tell(kind, subject, reason, None)

    def _look_for_drift(self) -> None:
        drift = self._calibrator.drift()
        if drift is None:
            return
        factors, reason = drift
        self._calibrate(factors)
        data = CalibrationData(
            service={f"{kind.variant}/{kind.profile}": f for kind, f in factors.service.items()},
            energy=dict(factors.energy),
        )
        self._tell("calibration.updated", self._expected.application, reason, data)
        self._put(control.DriftSeen(reason=reason))

    def _see_intensity(self, reading: IntensityReading) -> None:
        if reading.stale and self.intensity is not None:
            # Old news changes no plan; the ledger goes on with it, marked.
            return
        self.intensity = reading
        self._put(control.IntensitySeen(effective=reading.g_per_kwh * reading.pue))

    def _see_node(self, telemetry: NodeTelemetry) -> None:
        kind = Kind(
            application=telemetry.application,
            gpu_model=telemetry.gpu_model,
            emulated=telemetry.backend == "cpu",
        )
        if reason := why_foreign(kind, self._expected):
            self.nodes.pop(telemetry.node, None)
            self._put(control.ForeignSeen(node=telemetry.node, reason=reason))
            return
        self.reached = max(self.reached, telemetry.epoch)
        self._sampler.take(telemetry)
        if telemetry.leaving:
            self.nodes.pop(telemetry.node, None)
            self._put(control.LeavingSeen(node=telemetry.node, boot_id=telemetry.boot_id))
            return
        self.nodes[telemetry.node] = telemetry
        gpus = {
            gpu.index: control.GpuReport(
                phase=gpu.phase,
                applied_epoch=gpu.applied_epoch,
                configuration=serving_configuration(gpu),
                reason=gpu.reason,
                power_limit_s=gpu.power_limit_s,
                live=live_configuration(gpu),
            )
            for gpu in telemetry.gpus
        }
        self._put(
            control.NodeSeen(node=telemetry.node, boot_id=telemetry.boot_id, interval_s=telemetry.interval_s, gpus=gpus)
        )


def waking_s(nodes: Iterable[NodeTelemetry]) -> float:
    """Return what switching on adds to waking a GPU: of nodes that have switched one off, as long as theirs takes."""
    return max((node.power_on_s for node in nodes if any(gpu.phase == "off" for gpu in node.gpus)), default=0.0)
