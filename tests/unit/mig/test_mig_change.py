"""Planning a move: every one of the 297 x 37, against a brute force that shares no code with the planner."""

from __future__ import annotations

from itertools import combinations

import pytest

from mig.change import Change, plan_change
from mig.device import GpuInstance
from mig.errors import PartitionRejectedError
from mig.partition import Partition, layouts, maximal_layouts, maximal_multisets, multisets
from mig.placement import place
from mig.profiles import gpu_model

A100 = gpu_model("a100-40gb")

# Memory slices and starts of the A100's basic profiles, written again so that the brute force stands alone.
GEOMETRY = {"7g": (8, (0,)), "4g": (4, (0,)), "3g": (4, (0, 4)), "2g": (2, (0, 2, 4)), "1g": (1, range(7))}

Layout = frozenset[tuple[str, int]]


def brute_force_layouts() -> dict[tuple[str, ...], list[Layout]]:
    """Every layout by trying all subsets of the 14 placements, grouped by sorted sizes."""
    masks = {(size, start): ((1 << n) - 1) << start for size, (n, starts) in GEOMETRY.items() for start in starts}
    grouped: dict[tuple[str, ...], list[Layout]] = {}
    for count in range(1, 8):
        for chosen in combinations(masks, count):
            union = 0
            for each in chosen:
                union |= masks[each]
            if union.bit_count() == sum(masks[each].bit_count() for each in chosen):
                grouped.setdefault(tuple(sorted(size for size, _ in chosen)), []).append(frozenset(chosen))
    return grouped


def living(layout: Partition) -> tuple[GpuInstance, ...]:
    return tuple(
        GpuInstance(id=9 - index, profile=each.profile, placement=each.placement, uuid=f"MIG-{index}")
        for index, each in enumerate(layout.placed)
    )


def at(*placed: tuple[str, int]) -> tuple[GpuInstance, ...]:
    return living(Partition(placed=tuple(place(A100.profile(size), start) for size, start in placed)))


def keys(instances: tuple[GpuInstance, ...]) -> list[tuple[str, int]]:
    return [instance.placed.key for instance in instances]


def assert_applies(change: Change[GpuInstance], current: tuple[GpuInstance, ...]) -> None:
    assert sorted(keys(change.keep) + keys(change.destroy)) == sorted(keys(current))
    placed = tuple(instance.placed for instance in change.keep)
    for each in change.create:
        placed = Partition(placed=(*placed, each)).placed  # raises if it does not fit
    assert placed == change.layout.placed


def test_every_move_reaches_its_multiset_and_keeps_as_much_as_brute_force() -> None:
    grouped = brute_force_layouts()
    assert sum(map(len, grouped.values())) == 297
    moves = 0
    for before in layouts(A100):
        current = living(before)
        here = frozenset(keys(current))
        for wanted in multisets(A100):
            change = plan_change(A100, current, wanted)
            assert_applies(change, current)
            assert change.layout.multiset == wanted
            best = max(len(here & there) for there in grouped[tuple(sorted(wanted))])
            assert len(change.keep) == best
            moves += 1
    assert moves == 297 * 37


def test_moves_between_maximal_partitions_keep_31_percent_on_average() -> None:
    fractions: list[float] = []
    for before in maximal_layouts(A100):
        current = living(before)
        changes = [plan_change(A100, current, wanted) for wanted in maximal_multisets(A100)]
        fractions += [len(change.keep) / len(current) for change in changes if not change.is_empty]
    assert len(fractions) == 247
    assert sum(fraction > 0 for fraction in fractions) == 160
    assert sum(fractions) / len(fractions) == pytest.approx(0.312, abs=0.0005)


def test_nothing_is_done_when_the_multiset_is_there_already_wherever_it_lies() -> None:
    for before in layouts(A100):
        assert plan_change(A100, living(before), before.multiset).is_empty


def test_one_small_instance_makes_way_for_nothing_more_than_it_must() -> None:
    change = plan_change(A100, at(("4g", 0), ("2g", 4), ("1g", 6)), ["4g", "1g", "1g", "1g"])
    assert keys(change.keep) == [("4g", 0), ("1g", 6)]
    assert keys(change.destroy) == [("2g", 4)]
    assert [each.key for each in change.create] == [("1g", 4), ("1g", 5)]


def test_of_two_instances_the_one_that_is_dearer_to_drain_stays() -> None:
    current = at(("3g", 0), ("3g", 4))
    first, second = current
    assert keys(plan_change(A100, current, ["3g"], drain_cost={first.id: 5.0}).keep) == [("3g", 0)]
    assert keys(plan_change(A100, current, ["3g"], drain_cost={second.id: 5.0}).keep) == [("3g", 4)]
    by_instance = plan_change(A100, current, ["3g"], drain_cost=lambda each: 2.0 if each is first else 1.0)
    assert by_instance.keep == (first,)


def test_one_dear_instance_outweighs_several_cheap_ones() -> None:
    current = at(("3g", 0), ("1g", 4), ("1g", 5), ("1g", 6))
    assert len(plan_change(A100, current, ["4g", "1g", "1g", "1g"]).keep) == 3
    change = plan_change(A100, current, ["3g", "3g"], drain_cost={current[0].id: 10.0})
    assert keys(change.keep) == [("3g", 0)]


def test_instances_that_cost_nothing_are_kept_all_the_same() -> None:
    current = at(("3g", 0), ("3g", 4))
    change = plan_change(A100, current, ["3g", "2g"], drain_cost=lambda _: 0.0)
    assert len(change.keep) == 1


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_a_cost_that_cannot_be_added_is_refused(cost: float) -> None:
    with pytest.raises(ValueError, match=r"drain_cost of instance 9 is .*: expected a finite number from 0"):
        plan_change(A100, at(("7g", 0)), ["7g"], drain_cost={9: cost})


def test_the_order_of_the_instances_does_not_matter() -> None:
    current = at(("2g", 0), ("2g", 2), ("1g", 4), ("1g", 6))
    for wanted in multisets(A100):
        assert plan_change(A100, current, wanted) == plan_change(A100, current[::-1], wanted[::-1])


def test_a_new_instance_goes_where_it_leaves_the_most_choices() -> None:
    assert [each.key for each in plan_change(A100, at(), ["3g"]).create] == [("3g", 4)]


def test_the_largest_is_created_first() -> None:
    assert [each.key[0] for each in plan_change(A100, at(), ["1g", "2g", "4g"]).create] == ["4g", "2g", "1g"]


def test_wanting_nothing_destroys_everything() -> None:
    current = at(("4g", 0), ("3g", 4))
    change = plan_change(A100, current, [])
    assert (change.keep, change.destroy, change.create) == ((), current, ())
    assert plan_change(A100, (), []).is_empty


def test_what_the_board_cannot_hold_is_refused() -> None:
    with pytest.raises(PartitionRejectedError, match=r"4g\+2x2g does not fit on a100-40gb"):
        plan_change(A100, (), ["4g", "2g", "2g"])


def test_kinds_beside_the_basic_ones_can_be_wanted_and_kept() -> None:
    current = at(("1g+me", 2), ("1g", 0))
    change = plan_change(A100, current, ["1g+mem", "1g+me", "3g"])
    assert keys(change.keep) == [("1g+me", 2)]
    assert_applies(change, current)
