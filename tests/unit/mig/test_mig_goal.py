"""What people ask of GPUs, as text."""

from __future__ import annotations

import pytest

from mig.errors import PartitionRejectedError
from mig.goal import Goal, InvalidGoalError, parse_allowed, parse_goals, parse_gpus, parse_partition
from mig.partition import Partition
from mig.profiles import GpuModel, gpu_model

A100, A30 = gpu_model("a100-40gb"), gpu_model("a30")
TWO = {0: A100, 1: A100}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3g+4g", ("4g", "3g")),
        ("2g,1g,4g", ("4g", "2g", "1g")),
        ("2g 1g", ("2g", "1g")),
        ("3g.20gb+4g.20gb", ("4g", "3g")),
        ("7x1g", ("1g",) * 7),
        ("1g+me+1g", ("1g+me", "1g")),
        ("5", ("3g", "2g", "1g")),
        (" None ", ()),
    ],
)
def test_partitions_as_people_write_them(text: str, wanted: tuple[str, ...]) -> None:
    assert sorted(parse_partition(A100, text)) == sorted(wanted)  # pyright: ignore[reportArgumentType]


def test_a_layout_names_the_start_of_each_instance() -> None:
    layout = parse_partition(A100, "3g@0+1g+me@4, 2g.10gb@4".replace("2g.10gb@4", "1g@6"))
    assert isinstance(layout, Partition)
    assert [str(each) for each in layout.placed] == ["3g@0", "1g+me@4", "1g@6"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3g@0+4g@0", "overlaps 3g.20gb"),
        ("3g@2", "starts at 2: expected one of 0, 4"),
        ("3g@0+1g", "expected a start for each instance"),
        ("3g@x", "expected a start for each instance"),
        ("@0", "expected a start for each instance"),
        ("9g@0", "profile '9g'"),
        ("4g+4g", "expected at most 1"),
        ("19", "code 19: expected 0 to 18"),
        ("", "expected sizes such as"),
    ],
)
def test_what_is_no_partition_is_refused(text: str, message: str) -> None:
    with pytest.raises(PartitionRejectedError, match=message):
        parse_partition(A100, text)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["3g+4g"], {0: ("4g", "3g"), 1: ("4g", "3g")}),
        (["all=7g"], {0: ("7g",), 1: ("7g",)}),
        (["7g", "1=none"], {0: ("7g",), 1: ()}),
        (["1=7g"], {1: ("7g",)}),
        (["0-1=7g"], {0: ("7g",), 1: ("7g",)}),
        (["0,1=7g"], {0: ("7g",), 1: ("7g",)}),
        (["0=1", "1=3g+3g"], {0: ("4g", "3g"), 1: ("3g", "3g")}),
    ],
)
def test_gpus_get_what_is_written_for_them(texts: list[str], wanted: dict[int, tuple[str, ...]]) -> None:
    assert parse_goals(texts, TWO) == {index: Goal(wanted=each) for index, each in wanted.items()}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no partition is given"),
        (["2=7g"], "GPU 2 is not there: expected one of 0, 1"),
        (["0=7g", "0-1=3g"], "GPU 0 is named twice"),
        (["2g", "1g"], "all GPUs have '2g' already"),
        (["x=7g"], "GPUs 'x': expected all, or numbers"),
        (["=7g"], "GPUs '': expected all, or numbers"),
    ],
)
def test_what_cannot_be_read_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(InvalidGoalError, match=message):
        parse_goals(texts, TWO)


def test_the_message_names_the_gpu_whose_board_has_no_such_partition() -> None:
    boards: dict[int, GpuModel] = {0: A100, 1: A30}
    with pytest.raises(PartitionRejectedError, match="GPU 1: code 5 on a30: expected a board with 7 compute slices"):
        parse_goals(["5"], boards)


def test_gpus_and_foreign_instances_by_number() -> None:
    assert parse_gpus("3,0-1", range(4)) == (0, 1, 3)
    assert parse_gpus("ALL", {2, 1}) == (1, 2)
    assert parse_allowed(["0/3", "0/4", "1/1"], {0, 1}) == {0: {3, 4}, 1: {1}}
    for text in ("3", "0/x", "0/-1", "/"):
        with pytest.raises(InvalidGoalError, match="expected GPU/ID"):
            parse_allowed([text], {0})
    with pytest.raises(InvalidGoalError, match="GPU 2 is not there"):
        parse_allowed(["2/0"], {0})
