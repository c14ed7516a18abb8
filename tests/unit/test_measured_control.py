"""What is measured against what was planned: tables that drift, shares that are off."""

from __future__ import annotations

from random import Random

import pytest

from clover.catalog import load_service
from clover.core.calibration import Calibrator, DriftEstimate, Factors, Sample, calibrated
from clover.core.configuration import InstanceKind
from clover.core.weights import MEMORY_REQUESTS, SETTLE_S, ShareCorrector, fitted, matters

BIG, LITTLE = InstanceKind("7g", "xxlarge"), InstanceKind("1g", "base")


# --- calibration ------------------------------------------------------------------------------------------------------


def test_an_outlier_is_left_out_and_three_of_them_are_believed() -> None:
    estimate = DriftEstimate()
    for _ in range(20):
        estimate.take(Sample(requests=100, measured=10.0, expected=10.0))
    estimate.take(Sample(requests=100, measured=30.0, expected=10.0))
    assert estimate.ratio == pytest.approx(1.0)
    for _ in range(3):
        estimate.take(Sample(requests=100, measured=20.0, expected=10.0))
    assert estimate.ratio == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize(("factor", "drifts"), [(1.05, False), (1.2, True), (0.8, True), (2.0, True)])
def test_the_table_follows_what_drifts_by_more_than_a_tenth(factor: float, drifts: bool) -> None:
    calibrator = Calibrator()
    for _ in range(20):
        calibrator.take_service(BIG, Sample(requests=100, measured=100.0 * factor, expected=100.0))
    found = calibrator.drift()
    assert (found is not None) is drifts
    if found is not None:
        assert found[0].service[BIG] == pytest.approx(factor)
        assert "7g:xxlarge" in found[1]
        # What was taken over is not said again.
        assert calibrator.drift() is None


def test_a_calibrated_table_says_what_was_measured_and_the_like_of_what_was_not() -> None:
    model = load_service("albert", "a100-40gb")
    factors = Factors(service={BIG: 2.0, LITTLE: 0.5}, energy={"xxlarge": 1.5})
    found = calibrated(model, factors)
    assert found.mean_ms("xxlarge", "7g", 0.0) == pytest.approx(2.0 * model.mean_ms("xxlarge", "7g", 0.0))
    assert found.mean_ms("base", "1g", 0.0) == pytest.approx(0.5 * model.mean_ms("base", "1g", 0.0))
    # Not measured: another profile like the variant's, another variant like all (here 2 x 0.5, so 1).
    assert found.mean_ms("xxlarge", "3g", 0.0) == pytest.approx(2.0 * model.mean_ms("xxlarge", "3g", 0.0))
    assert found.mean_ms("large", "3g", 0.0) == pytest.approx(model.mean_ms("large", "3g", 0.0))
    assert found.dynamic_j("base", 0.0) == pytest.approx(1.5 * model.dynamic_j("base", 0.0))
    assert calibrated(model, Factors()) is model


# --- shares -----------------------------------------------------------------------------------------------------------


def test_fitting_reaches_totals_by_node_and_kind() -> None:
    flows = {("n1", BIG): 0.25, ("n1", LITTLE): 0.25, ("n2", BIG): 0.25, ("n2", LITTLE): 0.25}
    found = fitted(flows, {"n1": 0.7, "n2": 0.3}, {BIG: 0.4, LITTLE: 0.6})
    assert found["n1", BIG] + found["n1", LITTLE] == pytest.approx(0.7)
    assert found["n1", BIG] + found["n2", BIG] == pytest.approx(0.4)


def test_shares_are_corrected_until_the_fleet_serves_what_was_planned() -> None:
    # Node 1 takes 70 % of the requests where 50 % were planned, and holds four times as much of one kind.
    corrector = ShareCorrector({BIG: 0.5, LITTLE: 0.5})
    shares = {"n1": {BIG: 0.8, LITTLE: 0.2}, "n2": {BIG: 0.2, LITTLE: 0.8}}
    sent = 0
    for second in range(120):
        begun = {
            (node, kind): round(1000 * weight * share)
            for node, weight in (("n1", 0.7), ("n2", 0.3))
            for kind, share in shares[node].items()
        }
        corrector.take(begun, float(second))
        told = {(node, kind): share for node, own in shares.items() for kind, share in own.items()}
        if (found := corrector.corrected(told)) is not None:
            shares, sent = found, sent + 1
            corrector.forget()
    last = 0.7 * shares["n1"][BIG] + 0.3 * shares["n2"][BIG]
    assert sent == 1
    assert max(map(abs, corrector.deviations().values())) <= 0.005
    assert last == pytest.approx(0.5, abs=0.005)


def test_what_nodes_are_told_is_not_what_they_then_serve_and_only_the_difference_is_corrected() -> None:
    # One kind is asked for four fifths and can take two fifths, which is what is planned.
    told = {("n1", BIG): 0.2, ("n1", LITTLE): 0.8}
    corrector = ShareCorrector({BIG: 0.6, LITTLE: 0.4})
    for second in range(120):
        corrector.take({("n1", BIG): 60, ("n1", LITTLE): 40}, float(second))
    assert corrector.corrected(told) is None
    # It takes less than that: it is asked for still more.
    for second in range(120, 400):
        corrector.take({("n1", BIG): 66, ("n1", LITTLE): 34}, float(second))
    found = corrector.corrected(told)
    assert found is not None
    assert found["n1"][LITTLE] == pytest.approx(0.8 * 0.4 / 0.34 / (0.8 * 0.4 / 0.34 + 0.2 * 0.6 / 0.66), abs=0.02)


def test_what_had_waited_when_a_plan_came_into_force_does_not_count() -> None:
    corrector = ShareCorrector({BIG: 0.5, LITTLE: 0.5})
    for second in range(int(SETTLE_S)):
        corrector.take({("n1", BIG): 100}, float(second))
    assert corrector.deviations() == {}
    corrector.take({("n1", BIG): 100}, SETTLE_S)
    assert corrector.deviations() == {BIG: 0.5, LITTLE: -0.5}


@pytest.mark.parametrize(
    ("served", "planned", "effective", "expected"),
    [
        # Off by 3 points: three standard errors are 15 points on 100 requests, 3.4 on 2000, 1.5 on 10 000.
        (0.53, 0.50, 100.0, False),
        (0.53, 0.50, 2_000.0, False),
        (0.53, 0.50, 10_000.0, True),
        (0.47, 0.50, 10_000.0, True),
        # However certain: within the floor.
        (0.509, 0.50, 1e9, False),
        (0.511, 0.50, 1e9, True),
        # However large: too few to tell.
        (1.00, 0.50, 199.0, False),
        (1.00, 0.50, 200.0, True),
        # A rare kind has less chance to be off.
        (0.045, 0.02, 500.0, True),
        (0.525, 0.50, 500.0, False),
        # What is not planned at all, or is all that is planned, is not off by chance.
        (0.02, 0.0, 300.0, True),
        (0.98, 1.0, 300.0, True),
    ],
)
def test_a_share_matters_that_is_off_by_more_than_chance_and_a_floor(
    served: float, planned: float, effective: float, *, expected: bool
) -> None:
    assert matters(served, planned, effective) is expected


@pytest.mark.parametrize("rate", [1, 5, 50])
def test_chance_is_not_corrected(rate: int) -> None:
    """Requests that go where they like with the planned probabilities: an hour of ticks, and nothing to correct."""
    planned = {("n1", BIG): 0.4, ("n1", LITTLE): 0.1, ("n2", BIG): 0.1, ("n2", LITTLE): 0.4}
    told = {("n1", BIG): 0.8, ("n1", LITTLE): 0.2, ("n2", BIG): 0.2, ("n2", LITTLE): 0.8}
    corrector, rng = ShareCorrector({BIG: 0.5, LITTLE: 0.5}), Random(f"chance/{rate}")
    corrections = 0
    for second in range(3600):
        drawn = rng.choices(list(planned), weights=list(planned.values()), k=rate)
        corrector.take({cell: drawn.count(cell) for cell in planned}, float(second))
        corrections += corrector.corrected(told) is not None
    # Three standard errors are passed by chance now and then; each time for a few ticks in a row.
    assert corrections <= 36


def test_at_a_low_rate_enough_is_remembered_and_what_was_served_under_other_shares_is_not() -> None:
    told = {("n1", BIG): 0.5, ("n1", LITTLE): 0.5}
    corrector = ShareCorrector({BIG: 0.5, LITTLE: 0.5})
    for second in range(1200):
        corrector.take({("n1", BIG): 2, ("n1", LITTLE): 1}, float(second))
    assert sum(corrector._served.values()) == pytest.approx(MEMORY_REQUESTS)
    assert corrector.deviations() == pytest.approx({LITTLE: 1 / 3 - 0.5, BIG: 2 / 3 - 0.5})
    assert corrector.corrected(told) is not None
    corrector.forget()
    assert corrector.deviations() == {}
    assert corrector.corrected(told) is None
