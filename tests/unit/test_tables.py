"""A broken performance table is refused with the field, what it holds and what was expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clover.catalog import load_service
from clover.data_files import data_folder
from clover.errors import ConfigurationError


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(table: dict[str, Any]) -> None:
        inner = table
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return change


def _drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(table: dict[str, Any]) -> None:
        inner = table
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return change


def _rename_variant(table: dict[str, Any]) -> None:
    table["variants"]["huge"] = table["variants"].pop("base")


BROKEN: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (_set("idle_power_w", to=-1.0), "idle_power_w = -1.0: expected a finite number, 0 or more"),
    (_set("off_power_w", to=-3.0), "off_power_w = -3.0"),
    (_set("parked_power_w", to="low"), "parked_power_w"),
    (_set("sla_p95_ms", to=0.0), "sla_p95_ms = 0.0: expected a finite number above 0"),
    (_set("host_contention_kappa", to=-0.1), "host_contention = -0.1"),
    (_set("host_lognormal_sigma", to=1e400), "JSON|out of range|number"),
    (_set("energy_contention", to=1.0), "energy_contention = 1.0: expected 0 <= c < 1"),
    (_set("change", "create_s", to=-0.5), "change.create_s = -0.5"),
    (_set("variants", "base", "host_ms", to=-49.0), "variant base: host_ms = -49.0"),
    (_set("variants", "large", "dynamic_energy_j", to=-1.0), "variant large: dynamic_energy_j = -1.0"),
    (_set("variants", "large", "service_ms", "3g", to=0.0), r"variant large: service_ms\[3g\] = 0.0"),
    (_set("variants", "large", "service_ms", to={}), "variant large: service_ms is empty"),
    (_set("variants", "large", "servce_ms", to={}), "servce_ms"),
    (_drop("variants", "large", "host_ms"), "missing required field `host_ms`"),
    (_drop("energy_contention"), "missing required field `energy_contention`"),
    (_drop("variants", "xxlarge"), r"variants missing: \['xxlarge'\]"),
    (_rename_variant, r"variants missing: \['base'\], unknown: \['huge'\]"),
    (_set("schema", to=2), "schema = 2, expected 1"),
    (_set("application", to="yolov5"), "is for yolov5 on a100-40gb, expected albert"),
]


@pytest.mark.parametrize(("breaks", "told"), BROKEN)
def test_a_broken_table_names_the_field(breaks: Callable[[dict[str, Any]], None], told: str, tmp_path: Path) -> None:
    shipped = data_folder() / "profiles" / "a100-40gb" / "albert.json"
    table = json.loads(shipped.read_text())
    breaks(table)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    with pytest.raises(ConfigurationError, match=told) as error:
        load_service("albert", "a100-40gb", path=path)
    assert "\n" not in str(error.value)


def test_a_sound_table_of_ones_own_is_taken(tmp_path: Path) -> None:
    table = json.loads((data_folder() / "profiles" / "a100-40gb" / "albert.json").read_text())
    table["off_power_w"] = 1.5
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    assert load_service("albert", "a100-40gb", path=path).table.off_power_w == 1.5
