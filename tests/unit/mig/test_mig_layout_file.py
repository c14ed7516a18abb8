"""Files of named layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mig.errors import PartitionRejectedError
from mig.goal import Goal, InvalidGoalError
from mig.layout_file import goals_of_layout, read_layout_file
from mig.profiles import gpu_model

A100, A30 = gpu_model("a100-40gb"), gpu_model("a30")
MODELS = {0: A100, 1: A100, 2: A30}

GOOD = """
version = 1
[[layouts.serving]]
devices = "all"
boards = ["a100-40gb"]
partition = "4g+3g"
[[layouts.serving]]
devices = "all"
boards = ["a30"]
mig-devices = { "2g" = 1, "1g.6gb" = 2 }
[[layouts.mixed]]
devices = [0]
nodes = ["a"]
mig-enabled = false
[[layouts.mixed]]
devices = [1]
nodes = ["a", "b"]
partition = 5
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mig.toml"
    path.write_text(text)
    return path


def test_rows_choose_gpus_by_number_node_and_board(tmp_path: Path) -> None:
    file = read_layout_file(written(tmp_path, GOOD))
    halves, thirds = Goal(wanted=("4g", "3g")), Goal(wanted=("3g", "2g", "1g"))
    assert goals_of_layout(file, "serving", "x", MODELS) == {0: halves, 1: halves, 2: Goal(wanted=("2g", "1g", "1g"))}
    assert goals_of_layout(file, "mixed", "a", MODELS) == {0: Goal(enabled=False), 1: thirds}
    assert goals_of_layout(file, "mixed", "b", MODELS) == {1: thirds}


@pytest.mark.parametrize(
    ("name", "node", "message"),
    [
        ("nosuch", "a", "layout 'nosuch': expected one of mixed, serving"),
        ("mixed", "c", "no row matches a GPU of node"),
    ],
)
def test_a_layout_that_is_not_for_this_host_is_refused(tmp_path: Path, name: str, node: str, message: str) -> None:
    with pytest.raises(InvalidGoalError, match=message):
        goals_of_layout(read_layout_file(written(tmp_path, GOOD)), name, node, MODELS)


ROW = '[[layouts.one]]\ndevices = "all"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version = 2\n[layouts]", r"invalid enum value 2|Invalid enum value 2"),
        ("[layouts]", "missing required field `version`"),
        ("version = 1", "missing required field `layouts`"),
        ("version = 1\n" + ROW + 'partition = "7g"\ncolour = "red"', "unknown field `colour`"),
        ("version = 1\n" + ROW, "row 1 of layout 'one': expected either partition or mig-devices"),
        ("version = 1\n" + ROW + 'partition = "7g"\nmig-devices = {"1g" = 1}', "expected either"),
        ("version = 1\n" + ROW + 'mig-enabled = false\npartition = "7g"', "expected neither"),
        ("version = 1\n" + ROW + 'mig-devices = {"1g" = 0}', "mig-devices '1g' = 0: expected 1 to 16"),
        ('version = 1\n[[layouts.one]]\ndevices = "some"\npartition = "7g"', "layouts"),
        ('version = 1\n[[layouts.one]]\ndevices = [0, 0]\npartition = "7g"', "expected each number once"),
        ("version = 1\n[", "expected a TOML file"),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidGoalError, match=f"(?i){message}") as caught:
        read_layout_file(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidGoalError, match="No such file"):
        read_layout_file(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidGoalError, match="expected a TOML file"):
        read_layout_file(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (ROW + "partition = 0\n" + ROW + "partition = 0", InvalidGoalError, "row 2 matches GPU 0, which an earlier"),
        ("[[layouts.one]]\ndevices = [7]\npartition = 0", InvalidGoalError, "GPU 7 is not there"),
        (ROW + 'partition = "4g+4g"', PartitionRejectedError, "row 1, GPU 0: partition 2x4g does not fit"),
        (ROW + 'mig-devices = {"9g" = 1}', PartitionRejectedError, "row 1, GPU 0: profile '9g'"),
    ],
)
def test_rows_that_cannot_be_are_refused(tmp_path: Path, rows: str, kind: type[Exception], message: str) -> None:
    file = read_layout_file(written(tmp_path, "version = 1\n" + rows))
    with pytest.raises(kind, match=message):
        goals_of_layout(file, "one", "a", {0: A100, 1: A100})
