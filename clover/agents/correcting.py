"""Watches whether the fleet's shares are as planned, and says what nodes must be told for them to become so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from clover.agents.decision import Decision
from clover.agents.translate import dispatch_target
from clover.bus.messages import DispatchRule, NodeTelemetry
from clover.core.configuration import InstanceKind
from clover.core.dispatch import DispatchRule as CoreRule
from clover.core.weights import Cell, ShareCorrector

#: A share must move by this much for targets to be sent again.
_WORTH_SENDING = 0.01


class Correction:
    """Follows one plan at a time."""

    def __init__(self) -> None:
        self._corrector: ShareCorrector | None = None
        self._decision: Decision | None = None
        self._begun: dict[str, tuple[str, dict[str, int]]] = {}
        self._sent_epoch = 0

    def corrected(
        self,
        decision: Decision | None,
        nodes: Mapping[str, NodeTelemetry],
        dispatch: Mapping[str, DispatchRule],
        *,
        epoch: int,
        now_s: float,
    ) -> dict[str, DispatchRule] | None:
        """Take in the newest telemetry; return rules to send, None if those in force will do.

        Nothing is corrected before every node has the last correction.
        """
        if decision is not self._decision:
            self._follow(decision, nodes)
        if self._corrector is None:
            return None
        self._corrector.take(self._since_last(nodes), now_s)
        behind = any(nodes[node].epoch < epoch for node in dispatch if node in nodes)
        shares = None if behind else self._corrector.corrected()
        if shares is None:
            return None
        rules = {
            node: dispatch_target(CoreRule(name="shares", shares=shares[node], weight=rule.weight))
            if node in shares
            else rule
            for node, rule in dispatch.items()
        }
        if _moved(rules, dispatch) <= _WORTH_SENDING:
            return None
        self._corrector.forget()
        return rules

    def _follow(self, decision: Decision | None, nodes: Mapping[str, NodeTelemetry]) -> None:
        self._decision, self._corrector = decision, None
        self._since_last(nodes)
        if decision is not None and any(rule.name == "shares" for rule in decision.answer.dispatch.values()):
            self._corrector = ShareCorrector(_planned(decision))

    def _since_last(self, nodes: Mapping[str, NodeTelemetry]) -> dict[Cell, int]:
        begun: dict[Cell, int] = {}
        for name, telemetry in nodes.items():
            boot_id, before = self._begun.get(name, ("", {}))
            known = boot_id == telemetry.boot_id
            for key, count in telemetry.begun.items():
                variant, _, profile = key.rpartition("/")
                new = count - (before.get(key, 0) if known else count)
                if new > 0:
                    begun[(name, InstanceKind(profile, variant))] = new
            self._begun[name] = (telemetry.boot_id, telemetry.begun)
        return begun


def _planned(decision: Decision) -> dict[Cell, float]:
    """Return the planned share of all requests by node and kind: an instance is worth the same wherever it stands."""
    shares = decision.answer.evaluation.shares
    gpus = decision.answer.configuration.gpus
    counts = Counter(kind for _, gpu in gpus for kind in gpu.instances)
    cells: dict[Cell, float] = {}
    for gpu_id, gpu in gpus:
        for kind in gpu.instances:
            cell = (gpu_id.node, kind)
            cells[cell] = cells.get(cell, 0.0) + shares.get(kind, 0.0) / counts[kind]
    return cells


def _moved(rules: Mapping[str, DispatchRule], before: Mapping[str, DispatchRule]) -> float:
    """Return by how much the share of some kind on some node changes at most."""
    most = 0.0
    for node, rule in rules.items():
        old = {(share.variant, share.profile): share.share for share in before[node].shares}
        new = {(share.variant, share.profile): share.share for share in rule.shares}
        most = max([most, *(abs(new.get(kind, 0.0) - old.get(kind, 0.0)) for kind in old.keys() | new)])
    return most
