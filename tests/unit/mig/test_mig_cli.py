"""`clover mig partitions`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.mig import app
from mig.errors import UnknownGpuModelError


def listed(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["partitions", "--json", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_json_has_the_counts_and_every_partition() -> None:
    summary = listed("--gpu-model", "a100-40gb")
    assert (summary["schema"], summary["gpu_model"], summary["all_profiles"]) == (1, "a100-40gb", False)
    assert summary["counts"] == {
        "layouts": 297,
        "multisets": 37,
        "maximal_layouts": 19,
        "maximal_multisets": 14,
        "inclusion_maximal_multisets": 12,
    }
    rows = summary["partitions"]
    assert len(rows) == 37
    assert sum(len(row["maximal_layouts"]) for row in rows) == 19
    assert sum(row["inclusion_maximal"] for row in rows) == 12
    assert sorted(code for row in rows for code in row["codes"]) == list(range(19))
    halves = next(row for row in rows if row["multiset"] == ["4g", "3g"])
    assert halves["codes"] == [1]
    assert halves["maximal_layouts"] == [
        [
            {"profile": "4g.20gb", "size": "4g", "start": 0, "memory_slices": 4},
            {"profile": "3g.20gb", "size": "3g", "start": 4, "memory_slices": 4},
        ]
    ]


def test_json_of_all_profiles_and_of_a_board_without_codes() -> None:
    assert listed("--all-profiles")["counts"]["layouts"] == 2318
    summary = listed("--gpu-model", "a30")
    assert summary["counts"]["maximal_layouts"] == 5
    assert all(row["codes"] == [] for row in summary["partitions"])


def test_people_get_a_table() -> None:
    result = CliRunner().invoke(app, ["partitions"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "4g@0  2g@4  1g@6" in result.stdout
    assert "maximal layouts: 19" in result.stdout


def test_an_unknown_board_is_left_to_the_top_level() -> None:
    with pytest.raises(UnknownGpuModelError):
        CliRunner().invoke(app, ["partitions", "--gpu-model", "v100"], catch_exceptions=False)
