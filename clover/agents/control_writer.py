"""What the controller writes: plans with their targets, under the lease, and the events that explain them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from clover.agents.decision import Decision, DecisionMaker
from clover.agents.lease import Lease, LeaseLostError
from clover.agents.translate import dispatch_target
from clover.bus.messages import (
    CalibrationData,
    DecisionData,
    DispatchRule,
    Event,
    GuardData,
    LiveData,
    PlanData,
    PlanRecord,
    Prediction,
)
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.core import control
from clover.core.clock import Clock
from clover.core.configuration import Configuration, GpuId
from clover.core.guard import Verdict

Data = DecisionData | PlanData | GuardData | CalibrationData | LiveData


class ControlWriter:
    """Publishes for one controller.

    Args:
        lease: Under which it writes.
        bus, clock: Ports.
        maker: Writes records and targets.
    """

    def __init__(self, lease: Lease, *, bus: Bus, clock: Clock, maker: DecisionMaker) -> None:
        self._lease = lease
        self._bus = bus
        self._clock = clock
        self._maker = maker
        #: The plan as it was last written.
        self.record: PlanRecord | None = None
        #: The decision that it carries out; None if another controller took it.
        self.decision: Decision | None = None
        #: Rule of each node, as the plan wants it and as it is corrected.
        self.dispatch: dict[str, DispatchRule] = {}

    def begin(self, record: PlanRecord | None, dispatch: Mapping[str, DispatchRule]) -> None:
        """Begin with what another controller has written."""
        self.record, self.decision, self.dispatch = record, None, dict(dispatch)

    async def take(self, decision: Decision) -> bool:
        """Make a decision the one that is carried out; return whether requests are handed out in another way."""
        self.decision = decision
        await self._say_decision(decision)
        dispatch = {node: dispatch_target(rule) for node, rule in decision.answer.dispatch.items()}
        plain = DispatchRule()
        nodes = dispatch.keys() | self.dispatch.keys()
        changed = any(dispatch.get(node, plain) != self.dispatch.get(node, plain) for node in nodes)
        # The admission bound of the guard goes with the targets.
        changed |= self.record is not None and decision.record.guard != self.record.guard
        self.dispatch = dispatch
        return changed

    async def send(self, step: control.Send, *, above: int) -> int:
        """Write the targets of a step; return their epoch, above all that any node has reached."""
        if self.decision is None:
            # A roll that another controller began: only its record is known.
            record = self._maker.step_taken_over(self._known(), step, at_ms=self._clock.now_ms())
        else:
            record = self._maker.step_record(self.decision, step, at_ms=self._clock.now_ms())
        # On the way kinds come and go; only the last step has those that the plan's dispatch is made for.
        dispatch = self.dispatch if step.last or record.guard != "none" else {}
        epoch = await self._publish(record, step.configuration, dispatch, above=above)
        await self.say("plan.step", str(step.configuration), _step_reason(step), epoch=epoch, data=_step(record, step))
        return epoch

    async def settle(self, settle: control.Settle, present: Configuration, *, above: int) -> None:
        """Record that the plan is in force everywhere."""
        if self.decision is not None:
            record = self.decision.record
        else:
            # What the record says of admission may be of a step in the middle of the roll.
            record = self._maker.taken_over(self._known(), present, settle.fenced)
        epoch = self.record.epoch if self.record else 0
        fenced = tuple(str(gpu) for gpu in settle.fenced)
        record = msgspec.structs.replace(
            record, epoch=epoch, state="serving", since_ms=self._clock.now_ms(), fenced=fenced, before={}
        )
        if self.record is None and self.decision is not None:
            # Nodes are as decided, but the server knows of no plan (it has lost it): nodes to come need their targets.
            epoch = await self._publish(record, present, self.dispatch, above=above)
        elif not await self._bus.update_plan(self._lease.holder, record):
            raise LeaseLostError
        else:
            self.record = record
        reason = "kept as it was" if settle.unchanged else "in force everywhere"
        data = _plan_data(record, record.prediction)
        await self.say("plan.serving", f"decision {record.decision}", reason, epoch=epoch, data=data)

    async def correct(
        self, dispatch: Mapping[str, DispatchRule], present: Configuration, *, above: int, reason: str
    ) -> int:
        """Send another dispatch with the same layout."""
        self.dispatch = dict(dispatch)
        epoch = await self._publish(self._known(), present, self.dispatch, above=above)
        nodes = ", ".join(sorted(dispatch))
        await self.say("dispatch.corrected", nodes, reason, epoch=epoch)
        return epoch

    async def _publish(
        self,
        record: PlanRecord,
        configuration: Configuration,
        dispatch: Mapping[str, DispatchRule],
        *,
        above: int,
    ) -> int:
        targets = self._maker.targets(configuration, reason=record.reason, dispatch=dispatch)
        epoch = await self._bus.publish_plan(self._lease.holder, record, targets, above=above)
        if epoch is None:
            raise LeaseLostError
        self.record = msgspec.structs.replace(record, epoch=epoch)
        return epoch

    def _known(self) -> PlanRecord:
        if self.record is None:
            raise AssertionError("a roll without a decision can only be one that was taken over")
        return self.record

    # --- events

    async def _say_decision(self, decision: Decision) -> None:
        record = decision.record
        data = DecisionData(
            decision=record.decision,
            trigger=record.trigger,
            scheme=record.scheme,
            intensity_g_per_kwh=record.intensity_g_per_kwh,
            rate_rps=record.prediction.rate_rps,
            evaluations=record.evaluations,
            meets_sla=decision.answer.meets_sla,
            prediction=record.prediction,
            alternatives=record.alternatives,
            guard=record.guard,
        )
        await self.say("decision", str(decision.answer.configuration), record.reason, data=data)

    async def say(self, kind: str, subject: str, reason: str, *, epoch: int = 0, data: Data | None = None) -> None:
        """Write an event; raises `LeaseLostError` if the lease has run out."""
        self._lease.check()
        await self._bus.publish(Feed.EVENTS, [self.event(kind, subject, reason, epoch=epoch, data=data)])

    def event(self, kind: str, subject: str, reason: str, *, epoch: int = 0, data: Data | None = None) -> Event:
        """Return an event of this controller."""
        return Event(
            at_ms=self._clock.now_ms(),
            kind=kind,
            source="controller",
            subject=subject,
            reason=reason,
            epoch=epoch,
            data=msgspec.to_builtins(data) if data is not None else {},
        )


def guard_data(verdict: Verdict | None) -> GuardData | None:
    """Write what the guard saw."""
    if verdict is None:
        return None
    return GuardData(
        level=verdict.level,
        late_pct=verdict.late_pct,
        low_pct=verdict.low_pct,
        high_pct=verdict.high_pct,
        answered=verdict.answered,
    )


def _step_reason(step: control.Send) -> str:
    if not step.changed:
        return "no GPU of the plan changes: only dispatch, and what had failed"
    moved = ", ".join(str(gpu) for gpu in step.changed)
    late = "" if step.late_pct is None else f"; {step.late_pct:.1f} % late expected meanwhile"
    return f"{len(step.changed)} GPUs change, {step.done} of {step.total} then done: {moved}{late}"


def _step(record: PlanRecord, step: control.Send) -> PlanData:
    data = _plan_data(record, record.step_prediction, changed=step.changed, last=step.last)
    return msgspec.structs.replace(data, done=step.done, total=step.total, late_pct=step.late_pct)


def _plan_data(
    record: PlanRecord, prediction: Prediction, *, changed: tuple[GpuId, ...] = (), last: bool = True
) -> PlanData:
    return PlanData(
        decision=record.decision,
        prediction=prediction,
        base=record.base,
        base_rightsized=record.base_rightsized,
        changed=tuple(str(gpu) for gpu in changed),
        last=last,
    )
