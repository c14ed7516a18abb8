"""The bundled tables, figure by figure."""

from __future__ import annotations

import dataclasses

import pytest

from mig.errors import MigError, PartitionRejectedError, UnknownGpuModelError
from mig.profiles import GPU_MODELS, gpu_model, size_of

EACH = (0, 1, 2, 3, 4, 5, 6)
EVEN = (0, 2, 4, 6)

# name, size, id, compute slices, GiB as printed (smaller figure), multiprocessors, max, starts, memory slices
A100_40GB = [
    ("1g.5gb", "1g", 19, 1, 4.75, 14, 7, EACH, 1),
    ("1g.5gb+me", "1g+me", 20, 1, 4.75, 14, 1, EACH, 1),
    ("1g.10gb", "1g+mem", 15, 1, 9.62, 14, 4, EVEN, 2),
    ("2g.10gb", "2g", 14, 2, 9.62, 28, 3, (0, 2, 4), 2),
    ("3g.20gb", "3g", 9, 3, 19.50, 42, 2, (0, 4), 4),
    ("4g.20gb", "4g", 5, 4, 19.50, 56, 1, (0,), 4),
    ("7g.40gb", "7g", 0, 7, 39.25, 98, 1, (0,), 8),
]
A100_80GB = [
    ("1g.10gb", "1g", 19, 1, 9.50, 14, 7, EACH, 1),
    ("1g.10gb+me", "1g+me", 20, 1, 9.50, 14, 1, EACH, 1),
    ("1g.20gb", "1g+mem", 15, 1, 19.50, 14, 4, EVEN, 2),
    ("2g.20gb", "2g", 14, 2, 19.50, 28, 3, (0, 2, 4), 2),
    ("3g.40gb", "3g", 9, 3, 39.25, 42, 2, (0, 4), 4),
    ("4g.40gb", "4g", 5, 4, 39.25, 56, 1, (0,), 4),
    ("7g.80gb", "7g", 0, 7, 78.50, 98, 1, (0,), 8),
]
A30 = [
    ("1g.6gb", "1g", 14, 1, 5.81, 14, 4, (0, 1, 2, 3), 1),
    ("1g.6gb+me", "1g+me", 21, 1, 5.81, 14, 1, (0, 1, 2, 3), 1),
    ("2g.12gb", "2g", 5, 2, 11.69, 28, 2, (0, 2), 2),
    ("2g.12gb+me", "2g+me", 6, 2, 11.69, 28, 1, (0, 2), 2),
    ("4g.24gb", "4g", 0, 4, 23.44, 56, 1, (0,), 4),
]
H100_80GB = [
    ("1g.10gb", "1g", 19, 1, 9.75, 16, 7, EACH, 1),
    ("1g.10gb+me", "1g+me", 20, 1, 9.75, 16, 1, EACH, 1),
    ("1g.20gb", "1g+mem", 15, 1, 19.62, 26, 4, EVEN, 2),
    ("2g.20gb", "2g", 14, 2, 19.62, 32, 3, (0, 2, 4), 2),
    ("3g.40gb", "3g", 9, 3, 39.50, 60, 2, (0, 4), 4),
    ("4g.40gb", "4g", 5, 4, 39.50, 64, 1, (0,), 4),
    ("7g.80gb", "7g", 0, 7, 79.25, 132, 1, (0,), 8),
]
TABLES = {"a100-40gb": A100_40GB, "a100-80gb": A100_80GB, "a30": A30, "h100-80gb": H100_80GB}


def test_every_table_is_checked() -> None:
    assert set(TABLES) == set(GPU_MODELS)


@pytest.mark.parametrize("name", TABLES)
def test_table_has_the_figures_that_boards_print(name: str) -> None:
    model = gpu_model(name)
    assert len(model.profiles) == len(TABLES[name])
    for profile_name, size, nvml_id, compute, gib, multiprocessors, most, starts, memory in TABLES[name]:
        profile = model.profile(profile_name)
        assert (profile.name, profile.size, profile.nvml_id) == (profile_name, size, nvml_id)
        assert (profile.compute_slices, profile.memory_slices) == (compute, memory)
        assert (profile.multiprocessors, profile.max_count, profile.starts) == (multiprocessors, most, starts)
        assert profile.memory_mib / 1024 == pytest.approx(gib, abs=0.0051)
        assert profile.memory_mib % 64 == 0


@pytest.mark.parametrize("name", TABLES)
def test_each_profile_is_found_by_size_and_by_name_and_the_largest_comes_first(name: str) -> None:
    model = gpu_model(name)
    assert model.source
    assert model.title
    for profile in model.profiles:
        assert model.profile(profile.size) is profile
        assert model.profile(profile.name) is profile
    slices = [profile.compute_slices for profile in model.profiles]
    assert slices == sorted(slices, reverse=True)


def test_basic_profiles_leave_out_media_engines_and_double_memory() -> None:
    for name in ("a100-40gb", "a100-80gb", "h100-80gb"):
        assert [each.size for each in gpu_model(name).basic_profiles] == ["7g", "4g", "3g", "2g", "1g"]
    assert [each.size for each in gpu_model("a30").basic_profiles] == ["4g", "2g", "1g"]


def test_the_same_id_means_different_sizes_on_different_boards() -> None:
    meaning = {
        name: {profile.nvml_id: profile.size for profile in model.profiles} for name, model in GPU_MODELS.items()
    }
    assert (meaning["a100-40gb"][14], meaning["a30"][14]) == ("2g", "1g")
    assert (meaning["a100-40gb"][5], meaning["a30"][5]) == ("4g", "2g")


def test_an_unknown_board_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        UnknownGpuModelError, match=r"gpu_model 'v100': expected one of a100-40gb, .*h100-80gb"
    ) as caught:
        gpu_model("v100")
    assert isinstance(caught.value, MigError)
    assert caught.value.hint


def test_an_unknown_profile_is_refused_with_those_that_the_board_has() -> None:
    with pytest.raises(PartitionRejectedError, match=r"profile '3g' on a30: expected one of 4g \(4g\.24gb\)"):
        gpu_model("a30").profile("3g")
    with pytest.raises(PartitionRejectedError) as caught:
        gpu_model("a100-40gb").profile("3")
    assert "Write 3g" in caught.value.hint


def test_sizes_are_short_names_that_no_other_profile_of_the_board_has() -> None:
    assert size_of("3g.71gb") == "3g"
    assert size_of("1g.18gb+me") == "1g+me"
    assert size_of("1g.35gb", double_memory=True) == "1g+mem"


def test_models_cannot_be_changed() -> None:
    model = gpu_model("a30")
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        GPU_MODELS["other"] = model  # type: ignore[index]


def test_impossible_tables_are_refused() -> None:
    model = gpu_model("a100-40gb")
    whole = model.profile("7g")
    with pytest.raises(ValueError, match=r"max_count of profile '7g.40gb' is 0: expected at least 1"):
        dataclasses.replace(whole, max_count=0)
    with pytest.raises(ValueError, match=r"starts of profile '7g.40gb' are \(4, 0\)"):
        dataclasses.replace(whole, starts=(4, 0))
    with pytest.raises(ValueError, match="expected each size once"):
        dataclasses.replace(model, profiles=(whole, whole))
    with pytest.raises(ValueError, match="reach memory slice 9: expected at most the 8"):
        dataclasses.replace(model, profiles=(dataclasses.replace(whole, starts=(1,)),))
