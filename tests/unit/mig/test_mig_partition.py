"""Enumeration, values and notation of partitions."""

from __future__ import annotations

import pytest

from mig.codes import CODES
from mig.errors import PartitionRejectedError
from mig.partition import (
    Partition,
    canonical_multiset,
    format_multiset,
    inclusion_maximal_multisets,
    layouts,
    layouts_of,
    maximal_layouts,
    maximal_multisets,
    multisets,
    parse_multiset,
)
from mig.placement import PlacedProfile, Placement, candidates, place, unfit
from mig.profiles import GPU_MODELS, gpu_model

A100 = gpu_model("a100-40gb")
A30 = gpu_model("a30")

INCLUSION_MAXIMAL = {
    ("7g",),
    ("4g", "3g"),
    ("4g", "2g", "1g"),
    ("4g", "1g", "1g", "1g"),
    ("3g", "3g"),
    ("3g", "2g", "2g"),
    ("3g", "2g", "1g", "1g"),
    ("3g", "1g", "1g", "1g", "1g"),
    ("2g", "2g", "2g", "1g"),
    ("2g", "2g", "1g", "1g", "1g"),
    ("2g", "1g", "1g", "1g", "1g", "1g"),
    ("1g",) * 7,
}


def counts(name: str, *, all_profiles: bool) -> tuple[int, ...]:
    functions = (layouts, multisets, maximal_layouts, maximal_multisets, inclusion_maximal_multisets)
    return tuple(len(function(gpu_model(name), all_profiles=all_profiles)) for function in functions)


@pytest.mark.parametrize("name", ["a100-40gb", "a100-80gb", "h100-80gb"])
def test_boards_of_seven_slices_have_297_layouts_and_19_maximal_ones(name: str) -> None:
    assert counts(name, all_profiles=False) == (297, 37, 19, 14, 12)
    assert counts(name, all_profiles=True) == (2318, 127, 239, 64, 44)


def test_the_a30_has_25_layouts_and_5_maximal_ones() -> None:
    assert counts("a30", all_profiles=False) == (25, 9, 5, 4, 4)
    assert counts("a30", all_profiles=True) == (83, 21, 21, 9, 9)


def test_the_inclusion_maximal_multisets_are_the_known_twelve() -> None:
    assert set(inclusion_maximal_multisets(A100)) == INCLUSION_MAXIMAL
    others = set(maximal_multisets(A100)) - INCLUSION_MAXIMAL
    assert others == {("3g", "2g", "1g"), ("3g", "1g", "1g", "1g")}


def test_the_other_two_are_maximal_only_with_the_3g_at_the_first_slice() -> None:
    for multiset in (("3g", "2g", "1g"), ("3g", "1g", "1g", "1g")):
        found = [layout for layout in maximal_layouts(A100) if layout.multiset == multiset]
        assert found
        assert all(layout.placed[0].key == ("3g", 0) for layout in found)


@pytest.mark.parametrize("name", GPU_MODELS)
def test_compute_slices_never_run_out_before_memory_slices(name: str) -> None:
    model = gpu_model(name)
    for layout in layouts(model, all_profiles=True):
        assert sum(each.profile.compute_slices for each in layout.placed) <= model.compute_slices


@pytest.mark.parametrize("name", GPU_MODELS)
def test_layouts_of_every_multiset_are_exactly_those_of_the_enumeration(name: str) -> None:
    model = gpu_model(name)
    by_multiset: dict[tuple[str, ...], set[Partition]] = {}
    for layout in layouts(model, all_profiles=True):
        by_multiset.setdefault(layout.multiset, set()).add(layout)
    for multiset, expected in by_multiset.items():
        found = layouts_of(model, multiset)
        assert len(found) == len(expected)
        assert set(found) == expected


def test_layouts_that_leave_more_choices_come_first() -> None:
    assert [str(layout) for layout in layouts_of(A100, ("3g",))] == ["3g@4", "3g@0"]
    assert layouts_of(A100, ()) == (Partition(placed=()),)
    assert str(layouts_of(A100, ["1g.5gb", "4g", "2g"])[0]) == "4g@0 2g@4 1g@6"


def test_a_partition_is_a_value_whatever_order_it_was_built_in() -> None:
    small, large = place(A100.profile("3g"), 4), place(A100.profile("4g"), 0)
    partition = Partition(placed=(small, large))
    assert partition == Partition(placed=(large, small))
    assert hash(partition) == hash(Partition(placed=(large, small)))
    assert partition.placed == (large, small)
    assert partition.multiset == ("4g", "3g")
    assert str(partition) == "4g@0 3g@4"
    assert partition.room(A100) == ()


def test_an_impossible_partition_is_refused() -> None:
    with pytest.raises(ValueError, match=r"placement \{0\}:4 of 4g.20gb overlaps 3g.20gb at \{0\}:4"):
        Partition(placed=(place(A100.profile("3g"), 0), place(A100.profile("4g"), 0)))
    engines = A100.profile("1g+me")
    with pytest.raises(ValueError, match=r"1g.5gb\+me would be there 2 times: expected at most 1"):
        Partition(placed=(place(engines, 0), place(engines, 1)))


def test_a_placement_is_a_run_of_memory_slices() -> None:
    first = Placement(start=0, size=4)
    assert (first.end, str(first)) == (4, "{0}:4")
    assert first.overlaps(Placement(start=3, size=1))
    assert not first.overlaps(Placement(start=4, size=4))
    with pytest.raises(ValueError, match="start of a placement is -1"):
        Placement(start=-1, size=1)
    with pytest.raises(ValueError, match="size of a placement is 0"):
        Placement(start=0, size=0)


def test_a_profile_lies_only_where_the_board_lets_it() -> None:
    with pytest.raises(ValueError, match=r"of 3g.20gb starts at 2: expected one of 0, 4"):
        place(A100.profile("3g"), 2)
    with pytest.raises(ValueError, match=r"of 3g.20gb has size 3: expected 4 memory slices"):
        PlacedProfile(profile=A100.profile("3g"), placement=Placement(start=4, size=3))
    assert unfit(A100.profile("3g"), Placement(start=4, size=4), [place(A100.profile("4g"), 0)]) == ""


def test_candidates_are_every_profile_at_every_start() -> None:
    assert len(candidates(A100)) == 1 + 1 + 2 + 3 + 7
    assert len(candidates(A100, all_profiles=True)) == len(candidates(A100)) + 7 + 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3g+4g", ("4g", "3g")),
        ("2g,1g,4g", ("4g", "2g", "1g")),
        (" 4G , 3g ", ("4g", "3g")),
        ("4g + 2g 1g", ("4g", "2g", "1g")),
        ("7g", ("7g",)),
        ("7x1g", ("1g",) * 7),
        ("1g*7", ("1g",) * 7),
        ("4g+3x1g", ("4g", "1g", "1g", "1g")),
        ("1g.5gbx2,4g.20gb", ("4g", "1g", "1g")),
        ("3g.20gb+3g.20gb", ("3g", "3g")),
        ("1g+me+1g", ("1g", "1g+me")),
        ("1g.5gb+me+1g.10gb", ("1g+mem", "1g+me")),
        ("2x1g+mem", ("1g+mem", "1g+mem")),
        ("1g+mem*2", ("1g+mem", "1g+mem")),
        ("0", ("7g",)),
        ("7", ("3g", "2g", "2g")),
        ("18", ("1g",) * 7),
    ],
)
def test_a_multiset_is_read_as_people_write_it(text: str, expected: tuple[str, ...]) -> None:
    assert parse_multiset(A100, text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "partition '': expected sizes such as 4g"),
        ("  ", "partition ''"),
        ("3g,,4g", "partition '3g,,4g' has an empty term"),
        ("5g", "profile '5g' on a100-40gb: expected one of 7g"),
        ("3g+", r"profile '3g\+'"),
        ("3,4", "profile '3' on a100-40gb"),
        ("3g+x", r"profile '3g\+x'"),
        ("19", "code 19: expected 0 to 18"),
        ("99999999", "profile '99999999'"),
        ("-1", "profile '-1'"),
        ("0x1g", "repeats 0 times: expected 1 to 16"),
        ("400x1g", "repeats 400 times: expected 1 to 16"),
        ("8x1g", "8x1g does not fit on a100-40gb: 1g is there 8 times, expected at most 7"),
        ("4g+4g", "4g is there 2 times, expected at most 1"),
        ("7g+1g", "takes 9 memory slices, expected at most 8"),
        ("4g+2x2g", "takes 8 compute slices, expected at most 7"),
        ("3g+2g+3x1g", "takes 9 memory slices, expected at most 8"),
    ],
)
def test_text_that_names_no_partition_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(PartitionRejectedError, match=message):
        parse_multiset(A100, text)


def test_another_boards_profiles_are_refused() -> None:
    with pytest.raises(PartitionRejectedError, match=r"profile '3g.40gb' on a100-40gb"):
        parse_multiset(A100, "3g.40gb")
    with pytest.raises(PartitionRejectedError, match=r"profile '7g' on a30"):
        parse_multiset(A30, "7g")
    assert parse_multiset(A30, "2g+1g*2") == ("2g", "1g", "1g")


@pytest.mark.parametrize("name", GPU_MODELS)
def test_what_is_written_is_read_back(name: str) -> None:
    model = gpu_model(name)
    for multiset in multisets(model, all_profiles=True):
        assert parse_multiset(model, format_multiset(multiset)) == multiset
        assert canonical_multiset(model, reversed(multiset)) == multiset
    assert format_multiset(()) == "none"


def test_every_code_of_the_original_is_read() -> None:
    for code, sizes in enumerate(CODES):
        assert parse_multiset(A100, str(code)) == canonical_multiset(A100, sizes)
