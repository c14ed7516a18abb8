"""What batching may be asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.batching_options import batching_arguments, batching_of, check_batches
from clover.agents.fleet import make_fleet
from clover.catalog import load_service
from clover.core.batching import Batching
from clover.errors import ConfigurationError

LITE = load_service("efficientnet_lite", "cpu")
#: The same figures as of batches of four.
FOURS = replace(LITE, table=replace(LITE.table, batch_size=4))


def test_batching_is_off_unless_asked_for() -> None:
    assert not Batching().is_on
    assert Batching().text == ""
    assert batching_arguments(Batching()) == ()
    Batching().check(LITE, 0.1)


@pytest.mark.parametrize(
    ("size", "delay_s", "told"),
    [
        (0, 0.0, "max_batch_size = 0: expected 1 to 64"),
        (65, 0.0, "max_batch_size = 65: expected 1 to 64"),
        (4, -0.001, "max_queue_delay = -0.001 s: expected a finite time"),
        (4, float("nan"), "expected a finite time"),
        (1, 0.005, "max_queue_delay = 5 ms with max_batch_size = 1: expected 0"),
    ],
)
def test_what_cannot_be_is_refused(size: int, delay_s: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Batching(max_batch_size=size, max_queue_delay_s=delay_s)


def test_a_delay_that_breaks_the_promise_by_itself_is_refused() -> None:
    fastest = LITE.table.variants["lite0"]
    least_ms = fastest.host_ms + fastest.service_ms["7g"]
    batching = Batching(max_batch_size=4, max_queue_delay_s=0.005)
    batching.check(LITE, least_ms + 5.1)
    with pytest.raises(ValueError, match="expected below 5 ms, the SLA of"):
        batching.check(LITE, least_ms + 5.0)


def test_a_table_holds_for_one_batch_size_and_the_delay_is_planned_with() -> None:
    Batching().check_table(LITE.table)
    together = Batching(max_batch_size=4, max_queue_delay_s=0.005)
    told = "table of efficientnet_lite on cpu: batch_size = 1, expected 4, the --max-batch-size that is served"
    with pytest.raises(ValueError, match=told):
        together.check_table(LITE.table)
    together.check_table(FOURS.table)
    with pytest.raises(ValueError, match="batch_size = 4, expected 1"):
        Batching().check_table(FOURS.table)
    assert together.planned_with(FOURS).table.transport_ms == FOURS.table.transport_ms + 5.0
    assert Batching().planned_with(LITE) is LITE


def test_options_are_checked_against_backend_family_and_sla() -> None:
    cpu = make_fleet(backend="cpu", board="a100-40gb", model=FOURS)
    batching = batching_of(cpu, 4, 0.005, sla_ms=150.0)
    assert batching.text == "size 4, delay 5 ms; predictions are for full batches"
    assert batching_arguments(batching) == ("--max-batch-size", "4", "--max-queue-delay", "0.005s")
    with pytest.raises(ConfigurationError, match="--max-queue-delay: max_queue_delay = 200 ms: expected below"):
        batching_of(cpu, 4, 0.2, sla_ms=150.0)
    with pytest.raises(ConfigurationError, match="batch_size = 4, expected 2") as caught:
        batching_of(cpu, 2, None)
    assert "clover profile sweep --batch-size 2" in caught.value.hint
    with pytest.raises(ConfigurationError, match="--batch-size = 65: expected 1 to 64"):
        check_batches(cpu, 65, option="--batch-size")
    simulated = make_fleet(backend="sim", board="a100-40gb", model=load_service("albert", "a100-40gb"))
    with pytest.raises(ConfigurationError, match="expected 1 with --backend sim"):
        batching_of(simulated, 2, None)
    assert not batching_of(simulated, 1, None).is_on
