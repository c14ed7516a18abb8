"""What a controller agent is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field

from clover.core.arrivals import RateProfile
from clover.core.load_profile import Begins
from clover.core.triggers import PaceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """What a controller is told at its start.

    Attributes:
        name: Of the controller, for people; two of the same name are two all the same.
        rate_rps: Load to plan for until it is measured, or known in advance.
        gpu_model: The board that plans are made for; nodes with another one are refused.
        emulated: Whether plans are made with the table of emulated GPUs (backend `cpu`); nodes of the other sort are
            refused.
        expected_nodes: The first decision waits for this many nodes.
        tick_s: How often lost nodes, the load, and late answers are looked at.
        lease_s: After this long without a sign of life a standby may take over.
        sweep_s: How often to look for requests that nobody will answer.
        reap_s: How often to forget consumers of nodes that are gone, and how long they must have been silent.
        block_s: Longest wait for news in one call.
        plan_within_s: Longest wait for a plan before the present one is kept for the time being.
        pace: How often it may decide.
        guarded: Whether the SLA guard acts.
        calibrated: Whether the table in use follows what is measured.
        load_ahead_s: How far ahead of a ramp GPUs are woken; None for what a change takes by the table.
        load_profile: The load as it is known in advance; None if it is not.
        load_begins: When that load's time is 0: at midnight UTC, or where the schedule of the newest generator begins.
    """

    name: str
    rate_rps: float
    gpu_model: str = "a100-40gb"
    emulated: bool = False
    expected_nodes: int = 1
    tick_s: float = 1.0
    lease_s: float = 6.0
    sweep_s: float = 0.5
    reap_s: float = 60.0
    block_s: float = 1.0
    plan_within_s: float = 60.0
    pace: PaceSettings = field(default_factory=PaceSettings)
    guarded: bool = True
    calibrated: bool = True
    load_ahead_s: float | None = None
    load_profile: RateProfile | None = None
    load_begins: Begins = "midnight"
