"""The partition codes of the original."""

from __future__ import annotations

import pytest

from mig.codes import CODES, DUPLICATES, codes_of_multiset, layout_of_code, multiset_of_code
from mig.errors import PartitionRejectedError
from mig.partition import Partition, maximal_layouts, maximal_multisets
from mig.profiles import gpu_model

A100 = gpu_model("a100-40gb")


def test_codes_keep_the_originals_order() -> None:
    assert len(CODES) == 19
    assert CODES[2] == ("2g", "1g", "4g")
    assert CODES[14] == ("1g", "1g", "1g", "2g", "1g", "1g")
    assert multiset_of_code(A100, 2) == ("4g", "2g", "1g")


def test_the_19_codes_mean_the_14_maximal_multisets() -> None:
    assert {multiset_of_code(A100, code) for code in range(19)} == set(maximal_multisets(A100))


def test_duplicates_point_to_the_first_code_that_means_the_same() -> None:
    assert dict(DUPLICATES) == {9: 8, 13: 12, 15: 14, 16: 14, 17: 14}
    assert codes_of_multiset(A100, ("3g", "2g", "1g", "1g")) == (8, 9)
    assert codes_of_multiset(A100, ("2g", "1g", "1g", "1g", "1g", "1g")) == (14, 15, 16, 17)
    assert codes_of_multiset(A100, ("2g",)) == ()


def test_created_at_the_highest_start_the_codes_give_18_of_the_19_maximal_layouts() -> None:
    reached = [Partition(placed=layout_of_code(A100, code)) for code in range(19)]
    assert reached[16] == reached[17]
    assert len(set(reached)) == 18
    never = set(maximal_layouts(A100)) - set(reached)
    assert [str(layout) for layout in never] == ["2g@0 2g@2 1g@4 1g@5 1g@6"]
    assert set(reached) < set(maximal_layouts(A100))


def test_boards_without_seven_slices_have_no_codes() -> None:
    a30 = gpu_model("a30")
    with pytest.raises(PartitionRejectedError, match="code 0 on a30: expected a board with 7 compute slices") as caught:
        multiset_of_code(a30, 0)
    assert "2g+1g" in caught.value.hint
    assert codes_of_multiset(a30, ("1g",)) == ()


@pytest.mark.parametrize("code", [-1, 19])
def test_a_code_outside_the_table_is_refused(code: int) -> None:
    with pytest.raises(PartitionRejectedError, match=f"code {code}: expected 0 to 18"):
        multiset_of_code(A100, code)
