"""The hosts that tests of `clover mig` ask for.

Commands of the fixtures `driver` and `process` are real processes; those of `machine` call the program's entry inside
this one, because starting hundreds of interpreters tests nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mig_machine import Machine, faked, simulated
from nvml_fake import FakeNvml

from mig.profiles import gpu_model

A100 = gpu_model("a100-40gb")


@pytest.fixture(params=["simulated", "driver"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A host with two A100s in MIG mode."""
    if request.param == "simulated":
        return replace(simulated(tmp_path), inside=True)
    libraries: Callable[[int], Path] = request.getfixturevalue("nvml_libraries")
    fake = FakeNvml(libraries(0), tmp_path / "nvml-state")
    for _ in range(2):
        fake.add_gpu(A100)
    return faked(tmp_path, fake, inside=True)


@pytest.fixture
def process(tmp_path: Path) -> Machine:
    """A host with two simulated A100s in MIG mode."""
    return simulated(tmp_path)


@pytest.fixture
def driver(nvml_libraries: Callable[[int], Path], tmp_path: Path) -> Machine:
    """A host with one A100 in MIG mode behind the fake driver."""
    fake = FakeNvml(nvml_libraries(0), tmp_path / "nvml-state")
    fake.add_gpu(A100)
    return faked(tmp_path, fake)
