"""Where a worker computes: the device it was started for, checked, or the CPU with a word about it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from clover.serving.device import choose_place
from clover.serving.framing import Start
from clover.serving.port import ServingError
from clover.serving.recipe import Recipe
from mig.profiles import GPU_MODELS, Profile, gpu_model

A100 = gpu_model("a100-40gb")


@dataclass(frozen=True)
class Properties:
    name: str
    total_memory: int
    multi_processor_count: int


@dataclass(frozen=True)
class Shown:
    """What CUDA shows: a device of a profile, or nothing."""

    profile: Profile | None

    def is_available(self) -> bool:
        return self.profile is not None

    def get_device_properties(self, device: int) -> Properties:
        assert device == 0
        assert self.profile is not None
        # A little less than the profile names, as real drivers show.
        return Properties("MIG", int(self.profile.memory_mib * 2**20 * 0.97), self.profile.multiprocessors)


def start(profile: Profile, device: str = "MIG-1") -> Start:
    return Start(
        recipe=Recipe(application="a", family="f", variant="v"),
        fraction=1.0,
        device=device,
        memory_mib=profile.memory_mib,
        multiprocessors=profile.multiprocessors,
    )


@pytest.mark.parametrize("model", GPU_MODELS.values(), ids=str)
def test_only_a_device_of_the_wanted_profile_is_accepted(model: object) -> None:
    profiles = model.basic_profiles  # pyright: ignore[reportAttributeAccessIssue]
    for wanted in profiles:
        for shown in profiles:
            if shown == wanted:
                assert choose_place(start(wanted), Shown(shown), build="x").device == "cuda"
                continue
            with pytest.raises(ServingError, match="device MIG-1 has .*: expected"):
                choose_place(start(wanted), Shown(shown), build="x")


def test_without_cuda_it_is_the_cpu_and_that_is_said() -> None:
    place = choose_place(start(A100.profile("3g")), Shown(None), build="2.13.0+cpu")
    assert (place.device, place.fallback) == ("cpu", "torch 2.13.0+cpu finds no CUDA device MIG-1")


def test_who_is_meant_for_the_cpu_does_not_look_for_a_device() -> None:
    place = choose_place(start(A100.profile("3g"), device=""), Shown(A100.profile("7g")), build="x")
    assert (place.device, place.fallback) == ("cpu", "")
