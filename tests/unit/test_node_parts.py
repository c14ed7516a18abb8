"""Parts of the fleet, offers by tier, make before break, power commands: the pure parts of a node."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import eventually, run

from clover.agents.deployment import process_started
from clover.agents.power_switch import PowerCommandError, PowerSwitch, power_switch, require_hooks
from clover.catalog import load_service
from clover.core.begin import MAX_DELIVERIES, Taken, ending_after_failure, ending_at_once
from clover.core.configuration import GpuConfiguration, InstanceKind
from clover.core.contention import CONTENTION_TIME_CONSTANT_S, MeanBusy
from clover.core.fair_share import GIVE_UP_AFTER, FairShare
from clover.core.offer import make_offer
from clover.core.outcome import Outcome
from clover.core.retry import HEALTHY_AFTER_S, RETRY_FIRST_S, RETRY_MOST_S, RetryPause
from clover.core.tiers import MAX_TIERS, accuracy_tiers, tier_of
from clover.core.transition import LiveInstance, plan_transition
from clover.errors import ConfigurationError
from mig.placement import Placement
from mig.profiles import gpu_model

TIERS = (70.0, 80.0, 84.0)
BOARD = gpu_model("a100-40gb")


@pytest.mark.parametrize(
    ("idle", "in_hand", "count", "tiers"),
    [
        ([], [], 0, {}),
        ([70.0, 70.0], [], 2, {}),
        ([70.0, 84.0], [], 2, {2: 1, 3: 1}),
        ([70.0, 80.0, 84.0], [], 3, {2: 2, 3: 1}),
        # What is in hand takes the least accurate instance that may answer it.
        ([70.0, 84.0], [None], 1, {2: 1, 3: 1}),
        ([70.0, 84.0], [75.0], 1, {}),
        ([80.0, 84.0], [75.0, None], 0, {}),
        # And nobody's place if there is none.
        ([70.0, 70.0], [84.0], 2, {}),
    ],
)
def test_an_offer_is_what_can_begin(
    idle: list[float], in_hand: list[float | None], count: int, tiers: dict[int, int]
) -> None:
    offer = make_offer(idle, TIERS, in_hand)
    assert (offer.count, dict(offer.tiers)) == (count, tiers)


@pytest.mark.parametrize(
    ("least", "tier"),
    [(None, 1), (0.0, 1), (70.0, 1), (70.1, 2), (80.0, 2), (80.1, 3), (84.0, 3), (84.1, None)],
)
def test_a_request_belongs_to_the_lowest_tier_that_answers_it(least: float | None, tier: int | None) -> None:
    assert tier_of(TIERS, least) == tier


def test_many_variants_share_tiers_that_promise_no_less() -> None:
    accuracies = [float(number) for number in range(20)]
    tiers = accuracy_tiers(reversed(accuracies))
    assert len(tiers) == MAX_TIERS
    assert tiers[0] == 0.0
    assert tiers[-1] == 19.0
    assert tier_of(tiers, 3.0) == 2
    assert tiers[1] >= 3.0


def test_a_node_waits_while_it_is_ahead_of_its_part() -> None:
    fair = FairShare(weight=0.25)
    assert fair.must_wait(0)  # it has not looked yet
    fair.see_fleet(1000, 0)
    assert not fair.must_wait(2)
    assert fair.must_wait(3)
    fair.see_fleet(1004, 3)
    assert not fair.must_wait(3)
    fair.see_fleet(1400, 100)
    assert [fair.must_wait(102), fair.must_wait(103)] == [False, True]


def test_a_node_gives_up_on_others_that_take_nothing() -> None:
    fair = FairShare(weight=0.5)
    fair.see_fleet(0, 0)
    waits = 0
    for begun in range(200):
        if fair.must_wait(begun):
            fair.see_fleet(begun, begun)
            if fair.must_wait(begun):
                waits += 1
                fair.nobody_else(begun)
    assert GIVE_UP_AFTER <= waits <= GIVE_UP_AFTER + 4


def test_a_server_that_lost_its_count_is_counted_from_anew() -> None:
    fair = FairShare(weight=0.5)
    fair.see_fleet(5000, 0)
    fair.see_fleet(3, 700)
    assert not fair.must_wait(701)


def test_alone_a_node_never_waits() -> None:
    assert not FairShare(weight=1.0).must_wait(1_000_000)


def live(number: int, size: str, start: int, variant: str | None) -> LiveInstance:
    profile = BOARD.profile(size)
    placement = Placement(start=start, size=profile.memory_slices)
    return LiveInstance(id=number, profile=profile, placement=placement, variant=variant)


def test_what_there_is_room_for_is_made_before_anything_breaks() -> None:
    there = [live(1, "2g", 0, "base"), live(2, "1g", 2, "base")]
    wanted = GpuConfiguration((InstanceKind("2g", "base"), InstanceKind("3g", "large")))
    transition = plan_transition(BOARD, there, wanted)
    assert [one.id for one in transition.keep] == [1]
    assert [(str(placed), variant) for placed, variant in transition.beside()] == [("3g@4", "large")]
    whole = plan_transition(BOARD, [live(1, "7g", 0, "base")], wanted)
    assert whole.beside() == ()


@dataclass(frozen=True)
class ABoard:
    index: int = 3
    uuid: str = "GPU-3"


def hook(folder: Path, text: str) -> tuple[str, ...]:
    path = folder / "hook.py"
    path.write_text(text)
    return (sys.executable, str(path))


def test_power_commands_are_told_which_gpu(tmp_path: Path) -> None:
    text = "import os, pathlib, sys\nnames = ['CLOVER_NODE', 'CLOVER_GPU_INDEX', 'CLOVER_GPU_UUID']\n"
    text += "pathlib.Path(sys.argv[1]).write_text(' '.join(os.environ[name] for name in names))\n"
    command = hook(tmp_path, text)
    switch = PowerSwitch("n1", (*command, str(tmp_path / "off")), (*command, str(tmp_path / "on")))

    async def both() -> None:
        await switch.switch(ABoard(), on=False)
        await switch.switch(ABoard(), on=True)
        await PowerSwitch("n1").switch(ABoard(), on=True)  # nothing to run

    run(both())
    assert (tmp_path / "off").read_text() == (tmp_path / "on").read_text() == "n1 3 GPU-3"


def test_a_power_command_that_fails_or_hangs_says_so(tmp_path: Path) -> None:
    failing = hook(tmp_path, "import sys\nprint('no such\\nrail')\nsys.exit(7)\n")
    with pytest.raises(PowerCommandError, match=r"power_off of n1/gpu3 .* ended with code 7: no such \| rail"):
        run(PowerSwitch("n1", failing).switch(ABoard(), on=False))
    with pytest.raises(PowerCommandError, match=r"power_on of n1/gpu3 \(/no/such\) cannot be started"):
        run(PowerSwitch("n1", (), ("/no/such",)).switch(ABoard(), on=True))
    hanging = (sys.executable, "-c", "import signal; signal.pause()")

    async def measured() -> float:
        begun = asyncio.get_running_loop().time()
        with pytest.raises(PowerCommandError, match=r"was not done within 0\.2 s and was ended"):
            await PowerSwitch("n1", hanging, (), 0.2).switch(ABoard(), on=False)
        return asyncio.get_running_loop().time() - begun

    assert run(measured()) < 10.0


#: Leaves a process behind that holds its output open, writes down which, and goes on as it is told.
LEAVES_ONE_BEHIND = ("sh", "-c", 'echo began; sleep 600 & echo $! > "$0.new"; mv "$0.new" "$0"; eval "$1"')


async def left_behind(told: Path) -> tuple[int, str]:
    await eventually(lambda: asyncio.to_thread(told.exists))
    pid = int(await asyncio.to_thread(told.read_text))
    return pid, process_started(pid)


async def has_ended(process: tuple[int, str]) -> bool:
    return process_started(process[0]) != process[1]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_power_command_is_ended_with_all_that_it_started(tmp_path: Path, stopped: bool) -> None:
    told = tmp_path / "left"
    command = (*LEAVES_ONE_BEHIND, str(told), "wait")

    async def main() -> None:
        switching = asyncio.create_task(
            PowerSwitch("n1", command, (), 600.0 if stopped else 1.0).switch(ABoard(), on=False)
        )
        process = await left_behind(told)
        if stopped:
            # As the agent does that is stopped in the middle of it.
            switching.cancel()
        error = asyncio.CancelledError if stopped else PowerCommandError
        with pytest.raises(error):
            await switching
        await eventually(lambda: has_ended(process))

    run(main())


@pytest.mark.parametrize("code", [0, 7])
def test_a_power_command_is_done_when_it_has_ended_whatever_it_leaves_running(tmp_path: Path, code: int) -> None:
    told = tmp_path / "left"
    switch = PowerSwitch("n1", (*LEAVES_ONE_BEHIND, str(told), f"exit {code}"), (), 20.0)

    async def main() -> None:
        failed = pytest.raises(PowerCommandError, match="ended with code 7: began$") if code else nullcontext()
        with failed:
            await switch.switch(ABoard(), on=False)
        process = await left_behind(told)
        assert process[1], "what it left running is its own affair"
        os.kill(process[0], signal.SIGKILL)

    run(main())


def test_a_power_command_may_write_more_than_a_pipe_holds() -> None:
    text = "import sys; sys.stdout.write('x' * 300_000); print('the end'); sys.exit(3)"
    with pytest.raises(PowerCommandError, match="code 3: x+the end$"):
        run(PowerSwitch("n1", (sys.executable, "-c", text)).switch(ABoard(), on=False))


def test_power_commands_are_checked_before_anything_starts() -> None:
    assert power_switch("n1", off="rail 'a b'", on="rail on").off == ("rail", "a b")
    for off, on, limit_s in (("x", "", 1.0), ("", "x", 1.0), ("x 'y", "x", 1.0), ("x", "x", 0.0)):
        with pytest.raises(ConfigurationError, match=r"power_"):
            power_switch("n1", off=off, on=on, limit_s=limit_s)
    with pytest.raises(ConfigurationError, match="--parking off"):
        require_hooks("nvml", "off", off=" ")
    require_hooks("nvml", "off", off="x")
    require_hooks("sim", "off", off="")


# --- requests -------------------------------------------------------------------------------------------------------

ALBERT = load_service("albert", "a100-40gb").application


def taken(**changes: object) -> Taken:
    values: dict[str, object] = {"application": "albert", "deadline_ms": 1000.0, "times_delivered": 1}
    return Taken(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "outcome", "dead", "told"),
    [
        (taken(), None, False, ""),
        (taken(deadline_ms=500.0), None, False, ""),
        (taken(deadline_ms=499.0), Outcome.EXPIRED, False, "before work began"),
        (taken(times_delivered=MAX_DELIVERIES), None, False, ""),
        (taken(times_delivered=MAX_DELIVERIES + 1), Outcome.FAILED, True, "delivered 4 times"),
        (taken(application="bert"), Outcome.FAILED, True, "'bert' is not served here, expected 'albert'"),
        (taken(min_accuracy_pct=ALBERT.largest.accuracy_pct), None, False, ""),
        (taken(min_accuracy_pct=99.0), Outcome.FAILED, False, "min_accuracy 99.0: expected at most"),
        # The deadline is looked at first: nobody waits for the rest.
        (taken(deadline_ms=1.0, application="bert"), Outcome.EXPIRED, False, "before work began"),
    ],
)
def test_what_must_not_begin_ends_at_once(request_: Taken, outcome: Outcome | None, dead: bool, told: str) -> None:
    ending = ending_at_once(request_, ALBERT, 500.0)
    assert (ending.outcome if ending else None, ending.dead if ending else False) == (outcome, dead)
    assert told in (ending.reason if ending else "")


@pytest.mark.parametrize(("tries", "given_up"), [(1, False), (MAX_DELIVERIES - 1, False), (MAX_DELIVERIES, True)])
def test_a_request_under_which_workers_die_is_given_up_in_the_end(tries: int, given_up: bool) -> None:
    ending = ending_after_failure(tries, "exit code 3")
    assert (ending is not None and ending.dead and "exit code 3" in ending.reason) is given_up


def test_the_mean_busy_fraction_forgets_with_its_time_constant() -> None:
    mean = MeanBusy(100.0)
    mean.cut(100.0 + 10 * CONTENTION_TIME_CONSTANT_S, busy=2, live=4)
    assert mean.fraction == pytest.approx(0.5, abs=1e-4)
    at_s = mean.at_s
    mean.cut(at_s - 5.0, busy=4, live=4)
    assert (mean.at_s, mean.fraction) == (at_s, pytest.approx(0.5, abs=1e-4))
    mean.cut(at_s + CONTENTION_TIME_CONSTANT_S, busy=0, live=0)
    assert mean.fraction == pytest.approx(0.5 / math.e, rel=1e-3)


@pytest.mark.parametrize(
    ("failures_s", "pause_s"),
    [
        ([0.0], RETRY_FIRST_S),
        ([0.0, 1.0], 2 * RETRY_FIRST_S),
        ([0.0, 1.0, 3.0], 4 * RETRY_FIRST_S),
        ([float(each) for each in range(20)], RETRY_MOST_S),
        ([0.0, 1.0, 1.0 + HEALTHY_AFTER_S], 4 * RETRY_FIRST_S),
        ([0.0, 1.0, 1.1 + HEALTHY_AFTER_S], RETRY_FIRST_S),
    ],
)
def test_pauses_grow_until_all_has_been_well_for_a_while(failures_s: list[float], pause_s: float) -> None:
    retry = RetryPause()
    for at_s in failures_s:
        retry.failed(at_s)
    assert retry.pause_s == pause_s
