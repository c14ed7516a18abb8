"""Schemes: what they promise, and that they are deterministic."""

from __future__ import annotations

import pytest

from clover.catalog import load_service
from clover.core.configuration import GpuId
from clover.errors import ConfigurationError
from clover.plan.problem import Problem
from clover.plan.schemes import SCHEME_NAMES, make_scheme
from clover.plan.space import all_gpu_configurations
from mig.partition import maximal_multisets
from mig.profiles import gpu_model

A100 = gpu_model("a100-40gb")


def _problem(app: str = "albert", *, rate: float = 12.5, intensity: float = 250.0, sla: float | None = None) -> Problem:
    model = load_service(app, "a100-40gb")
    return Problem(
        model=model,
        multisets=maximal_multisets(A100),
        gpus=tuple(GpuId("n1", index) for index in range(10)),
        rate_rps=rate,
        sla_ms=sla or model.table.sla_p95_ms,
        lambda_=0.5,
        intensity_g_per_kwh=intensity,
        pue=1.5,
    )


@pytest.mark.parametrize("name", SCHEME_NAMES)
@pytest.mark.parametrize("app", ["albert", "efficientnet", "yolov5"])
def test_a_scheme_repeats_itself_and_configures_every_gpu(name: str, app: str) -> None:
    problem = _problem(app, rate=12.5 if app == "albert" else 5.0)
    first, second = (make_scheme(name, seed=3).plan(problem) for _ in range(2))
    assert first == second
    assert len(first.configuration.gpus) == 10
    assert first.meets_sla


@pytest.mark.parametrize("name", ["clover", "blover"])
def test_a_search_never_chooses_what_misses_the_sla_and_stops_in_time(name: str) -> None:
    for seed in range(10):
        answer = make_scheme(name, seed=seed).plan(_problem())
        assert answer.meets_sla
        assert answer.evaluation.late_fraction <= 0.05
        assert answer.evaluations <= 30
        feasible = [candidate.objective for candidate in answer.candidates if candidate.meets_sla]
        assert answer.objective == max(feasible)


def test_an_impossible_sla_keeps_the_present_configuration_and_says_so() -> None:
    answer = make_scheme("clover", seed=0).plan(_problem(sla=1.0))
    assert not answer.meets_sla
    assert "configuration kept" in answer.reason
    assert answer.evaluations == 30
    assert {str(gpu) for _, gpu in answer.configuration.gpus} == {"7g:xxlarge"}


def test_faithful_differs_only_in_how_a_miss_is_judged() -> None:
    assert make_scheme("clover", seed=1, faithful=True).plan(_problem()).meets_sla


def test_co2opt_takes_the_smallest_variant_on_the_finest_partition() -> None:
    answer = make_scheme("co2opt", seed=0).plan(_problem())
    assert {str(gpu) for _, gpu in answer.configuration.gpus} == {"7x1g:base"}


def test_the_original_space_has_the_published_size() -> None:
    albert, yolo = load_service("albert", "a100-40gb"), load_service("yolov5", "a100-40gb")
    assert len(all_gpu_configurations(albert, maximal_multisets(A100))) == 1282
    # Without the largest variant on 1g, where it does not fit.
    assert len(all_gpu_configurations(yolo, maximal_multisets(A100))) == 208


def test_an_unknown_scheme_lists_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match="expected one of base"):
        make_scheme("magic", seed=0)
