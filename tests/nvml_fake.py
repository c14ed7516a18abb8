"""The fake driver: compiled from C with gcc, filled from the tables of `mig.profiles`, and played by the tests.

It is loaded under the unmodified `pynvml`: in other processes by LD_LIBRARY_PATH, in this one in place of the library
that `pynvml` would load itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pynvml

from mig.profiles import GpuModel

SOURCE = Path(__file__).parent / "fake_nvml" / "fake_nvml.c"
GCC = shutil.which("gcc")

#: NVML's enumerators (nvml.h, NVML_GPU_INSTANCE_PROFILE_*), which are not the ids.
ENUMERATORS = {"1g": 0, "2g": 1, "3g": 2, "4g": 3, "7g": 4, "1g+me": 7, "2g+me": 8, "1g+mem": 9}

AMPERE, HOPPER = 7, 9
UNKNOWN_ERROR = 999

Rights = Literal["user", "config", "root"]
Activation = Literal["at_once", "after_reset", "in_use"]
Action = Literal["fail", "kill_before", "kill_after", "lose"]


def compile_library(directory: Path, *, age: int) -> Path:
    """Compile the library; age 1 lacks the functions of later drivers, age 2 explicit placements too."""
    assert GCC is not None
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / "libnvidia-ml.so.1"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    command = [GCC, *flags, f"-DDRIVER_AGE={age}", "-Wl,-soname,libnvidia-ml.so.1", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True)
    return library


class FakeNvml:
    """One fake driver with its state file; several processes may use it at once."""

    def __init__(self, library: Path, state: Path, *, seed: int = 1, fresh_uuids: bool = False) -> None:
        self.library = library
        self.state = state
        # A copy for each state: a thread that an earlier test has left in a call does not act on this one's boards.
        own = state.with_name(f"{state.name}.so")
        if not own.exists():
            shutil.copy(library, own)
        self._c = ctypes.CDLL(str(own))
        self._c.fake_calls.restype = self._c.fake_changes.restype = ctypes.c_ulonglong
        if self._c.fake_open(str(state).encode()):
            raise OSError(f"state file {state} cannot be mapped")
        self._c.fake_reset(ctypes.c_ulonglong(seed), int(fresh_uuids))

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that shall find this driver as the driver of its host."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.library.parent), "FAKE_NVML_STATE": str(self.state)}

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Have this process's `pynvml` use this driver."""
        with _library(self._c):
            yield

    def add_gpu(
        self, model: GpuModel, *, mode: bool = True, architecture: int = AMPERE, supports_mig: bool = True
    ) -> str:
        """Add a board with the tables of a model; returns the GPU's UUID."""
        name = f"GPU-{uuid.uuid4()}"
        title = model.title.encode()
        index = self._c.fake_add_gpu(name.encode(), title, architecture, int(supports_mig), int(mode))
        for profile in model.profiles if supports_mig else ():
            self.add_profile(
                index,
                ENUMERATORS[profile.size],
                profile.nvml_id,
                profile.name,
                slices=profile.compute_slices,
                places=[(start, profile.memory_slices) for start in profile.starts],
                multiprocessors=profile.multiprocessors,
                count=profile.max_count,
                mib=profile.memory_mib,
            )
        return name

    def add_empty_gpu(self, title: str) -> str:
        """Add a board with MIG on and no profiles yet; returns its UUID."""
        name = f"GPU-{uuid.uuid4()}"
        self._c.fake_add_gpu(name.encode(), title.encode(), HOPPER, 1, 1)
        return name

    def add_profile(
        self,
        gpu: int,
        enumerator: int,
        profile_id: int,
        name: str,
        *,
        slices: int,
        places: list[tuple[int, int]],
        multiprocessors: int = 14,
        count: int = 1,
        mib: int = 4864,
    ) -> None:
        """Add a kind of instance to a board."""
        self._c.fake_add_profile(
            gpu, enumerator, profile_id, name.encode(), slices, multiprocessors, count, ctypes.c_ulonglong(mib)
        )
        for start, size in places:
            self._c.fake_add_placement(gpu, profile_id, start, size)

    def set_rights(self, rights: Rights) -> None:
        """What every caller may do from now on."""
        self._c.fake_set_rights(("user", "config", "root").index(rights))

    def set_loaded(self, loaded: bool) -> None:
        """Whether the kernel module is there."""
        self._c.fake_set_loaded(int(loaded))

    def set_latency(self, seconds: float) -> None:
        """How long each creation and destroy takes."""
        self._c.fake_set_latency(int(seconds * 1e6))

    def set_remnants(self, on: bool) -> None:
        """Whether a destroy reports success and leaves the instance."""
        self._c.fake_set_remnants(int(on))

    def set_activation(self, gpu: int, how: Activation) -> None:
        """What comes of a change of mode."""
        self._c.fake_set_activation(gpu, ("at_once", "after_reset", "in_use").index(how))

    def set_lost(self, gpu: int, lost: bool = True) -> None:
        """Have a GPU fall off the bus, or come back."""
        self._c.fake_set_lost(gpu, int(lost))

    def set_energy(self, gpu: int, millijoules: int) -> None:
        """Set the energy counter; 0 means that there is none."""
        self._c.fake_set_energy(gpu, ctypes.c_ulonglong(millijoules))

    def set_power(self, gpu: int, *, idle_mw: int, mig_mw: int = 0, instance_mw: int = 0) -> None:
        """Have the counter go on in real time: idle, in MIG mode so much more, and for each GPU instance."""
        self._c.fake_set_power(gpu, idle_mw, mig_mw, instance_mw)

    def use_gpu(self, gpu: int, pid: int) -> None:
        """Have a process use the whole GPU; 0 ends it."""
        self._c.fake_set_gpu_process(gpu, pid)

    def use(self, gpu: int, instance_id: int, *, pid: int = 4711, seconds: float | None = None) -> None:
        """Have a process use an instance, for ever or for a time of the fake's own clock."""
        milliseconds = ctypes.c_longlong(-1 if seconds is None else int(seconds * 1e3))
        assert self._c.fake_use(gpu, instance_id, pid, milliseconds), "no such instance"

    def create_foreign(self, gpu: int, profile_id: int, start: int, size: int) -> None:
        """Have somebody else create a GPU instance and no compute instance in it."""
        assert self._c.fake_create(gpu, profile_id, start, size) == 0, "no room"

    def leave(self, gpu: int, instance_id: int) -> None:
        """End the process that uses an instance."""
        self.use(gpu, instance_id, pid=0, seconds=0)

    def reset_gpu(self, gpu: int) -> None:
        """Reset a GPU: its pending mode is in force, its instances are gone."""
        self._c.fake_reset_gpu(gpu)

    async def sleep(self, seconds: float) -> None:
        """Let time pass on the fake's clock only."""
        self._c.fake_advance(ctypes.c_longlong(round(seconds * 1e3)))
        await asyncio.sleep(0)

    def calls(self) -> int:
        """Calls since the start or the last `fail`."""
        return int(self._c.fake_calls())

    def changes(self) -> int:
        """Calls since then that change something."""
        return int(self._c.fake_changes())

    def fail(
        self,
        first: int,
        *,
        times: int = 1,
        code: int = UNKNOWN_ERROR,
        action: Action = "fail",
        only_changes: bool = False,
    ) -> None:
        """Have the first-th call from now on, and `times` - 1 after it, fail or do worse; 0 ends that.

        With `only_changes`, calls that only read are neither counted nor concerned.
        """
        number = ("fail", "kill_before", "kill_after", "lose").index(action)
        self._c.fake_fail(first, times, code, number, int(only_changes))


@contextmanager
def _library(library: ctypes.CDLL | None) -> Iterator[None]:
    # The binding keeps the library and its functions; both must go when another driver is played.
    before = pynvml.nvmlLib
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library
    try:
        yield
    finally:
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml.nvmlLib = before
