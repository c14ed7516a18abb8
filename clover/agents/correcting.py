"""Watches whether the fleet's shares are as planned, and says what nodes must be told for them to become so."""

from __future__ import annotations

from collections.abc import Mapping

from clover.agents.decision import Decision
from clover.agents.translate import dispatch_target
from clover.bus.messages import DispatchRule, NodeTelemetry
from clover.core.configuration import InstanceKind
from clover.core.dispatch import DispatchRule as CoreRule
from clover.core.weights import WORTH_SENDING, Cell, ShareCorrector


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
        shares = None if behind else self._corrector.corrected(_told(dispatch))
        if shares is None:
            return None
        rules = {
            node: dispatch_target(CoreRule(name="shares", shares=shares[node], weight=rule.weight))
            if node in shares and rule.name == "shares"
            else rule
            for node, rule in dispatch.items()
        }
        if _moved(rules, dispatch) <= WORTH_SENDING:
            return None
        self._corrector.forget()
        return rules

    def _follow(self, decision: Decision | None, nodes: Mapping[str, NodeTelemetry]) -> None:
        self._decision, self._corrector = decision, None
        self._since_last(nodes)
        if decision is not None and any(rule.name == "shares" for rule in decision.answer.dispatch.values()):
            self._corrector = ShareCorrector(decision.answer.evaluation.shares)

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


def _told(dispatch: Mapping[str, DispatchRule]) -> dict[Cell, float]:
    """Return the share of its requests that each node is told to give each kind."""
    return {
        (node, InstanceKind(share.profile, share.variant)): share.share
        for node, rule in dispatch.items()
        for share in rule.shares
    }


def _moved(rules: Mapping[str, DispatchRule], before: Mapping[str, DispatchRule]) -> float:
    """Return by how much the share of some kind on some node changes at most."""
    most = 0.0
    for node, rule in rules.items():
        old = {(share.variant, share.profile): share.share for share in before[node].shares}
        new = {(share.variant, share.profile): share.share for share in rule.shares}
        most = max([most, *(abs(new.get(kind, 0.0) - old.get(kind, 0.0)) for kind in old.keys() | new)])
    return most
