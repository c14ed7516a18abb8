"""Where records of GPUs lie and how one process at a time becomes the writer of a GPU.

A directory of the host holds a record and a lock file for each GPU. All managers must use the same one whoever they run
as, so by default it is a fixed place that everyone may write to, and a record counts only if it belongs to this user or
to root. The lock is the kernel's (flock): it ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import msgspec

from mig.errors import GpuLockedError, RecordError
from mig.ownership import GpuRecord

STATE_VARIABLE = "CLOVER_MIG_STATE"
"""Environment variable that names the directory."""

_DEFAULT = Path("/tmp/clover-mig")  # noqa: S108 - shared on purpose, sticky, and the owner of each record is checked
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOCKS = Path("/proc/locks")


class RecordStore(Protocol):
    """Keeps the record of each GPU and its writer lock."""

    def read(self, gpu_uuid: str) -> GpuRecord:
        """Read the record of a GPU; an empty one if there is none of this boot.

        Raises:
            RecordError: It is there and cannot be used.
        """
        ...

    def write(self, record: GpuRecord) -> None:
        """Replace the record of a GPU, wholly or not at all.

        Raises:
            RecordError: It cannot be written.
        """
        ...

    def lock(self, gpu_uuid: str) -> AbstractContextManager[None]:
        """Be the only writer of a GPU while inside; does not wait.

        Raises:
            GpuLockedError: Somebody is.
        """
        ...


class MemoryStore:
    """A store that lives as long as the process; for simulated GPUs."""

    def __init__(self) -> None:
        self._records: dict[str, GpuRecord] = {}
        self._locked: set[str] = set()

    def read(self, gpu_uuid: str) -> GpuRecord:
        """Read the record of a GPU."""
        return self._records.get(gpu_uuid, GpuRecord(gpu_uuid=gpu_uuid, boot_id=""))

    def write(self, record: GpuRecord) -> None:
        """Replace the record of a GPU."""
        self._records[record.gpu_uuid] = record

    @contextmanager
    def lock(self, gpu_uuid: str) -> Generator[None]:
        """Be the only writer of a GPU in this process."""
        if gpu_uuid in self._locked:
            raise _locked(gpu_uuid, f"process {os.getpid()}")
        self._locked.add(gpu_uuid)
        try:
            yield
        finally:
            self._locked.discard(gpu_uuid)


class FileStore:
    """A store in a directory of the host; see the module.

    Args:
        directory: Where; None takes the environment variable, then the fixed place.
        boot: Name of the present boot, with which records end; None asks the kernel. Simulated GPUs outlive boots.
    """

    def __init__(self, directory: Path | None = None, *, boot: str | None = None) -> None:
        self._directory = directory or Path(os.environ.get(STATE_VARIABLE) or _DEFAULT)
        self._boot = boot

    @property
    def directory(self) -> Path:
        """Where the records lie."""
        return self._directory

    def read(self, gpu_uuid: str) -> GpuRecord:
        """Read the record of a GPU; an empty one if there is none of this boot.

        Raises:
            RecordError: It is there and cannot be used: not ours, not readable, or not of this form.
        """
        path = self._path(gpu_uuid, "json")
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._empty(gpu_uuid)
        except OSError as error:
            raise _unusable(path, error.strerror) from error
        with open(descriptor, "rb") as file:  # noqa: PTH123 - from a descriptor, so that links are not followed
            _check_owner(path, os.fstat(descriptor))
            text = file.read()
        try:
            record = msgspec.json.decode(text, type=GpuRecord)
        except msgspec.MsgspecError as error:
            raise _unusable(path, str(error)) from error
        if (record.version, record.gpu_uuid) != (1, gpu_uuid):
            raise _unusable(path, f"version {record.version} of {record.gpu_uuid}, expected version 1 of {gpu_uuid}")
        return record if record.boot_id == self._boot_id() else self._empty(gpu_uuid)

    def write(self, record: GpuRecord) -> None:
        """Replace the record of a GPU, wholly or not at all; only the writer of the GPU may.

        Raises:
            RecordError: It cannot be written.
        """
        path = self._path(record.gpu_uuid, "json")
        beside = path.with_suffix(f".{os.getpid()}")
        try:
            self._make_directory()
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - created exclusively, so that links are not followed
                file.write(msgspec.json.encode(record))
            beside.replace(path)
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise _unusable(path, error.strerror) from error

    @contextmanager
    def lock(self, gpu_uuid: str) -> Generator[None]:
        """Be the only writer of a GPU on this host while inside; does not wait.

        Raises:
            GpuLockedError: Another process is, or another part of this one; its number is in the message.
            RecordError: The directory cannot be used.
        """
        path = self._path(gpu_uuid, "lock")
        try:
            self._make_directory()
            descriptor = _open_lock(path)
        except OSError as error:
            raise _unusable(path, error.strerror) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _locked(gpu_uuid, _holder(os.fstat(descriptor).st_ino)) from None
            yield
        finally:
            os.close(descriptor)

    def _boot_id(self) -> str:
        return _boot_id() if self._boot is None else self._boot

    def _empty(self, gpu_uuid: str) -> GpuRecord:
        return GpuRecord(gpu_uuid=gpu_uuid, boot_id=self._boot_id())

    def _path(self, gpu_uuid: str, suffix: str) -> Path:
        if not gpu_uuid or set(gpu_uuid) & {"/", "\0"}:
            raise RecordError(f"gpu_uuid {gpu_uuid!r}: expected a name without slashes")
        return self._directory / f"{gpu_uuid}.{suffix}"

    def _make_directory(self) -> None:
        if not self._directory.is_dir():
            self._directory.mkdir(parents=True, exist_ok=True)
            # Sticky and open to all, as /tmp is: whoever manages the GPU must be able to take the lock.
            self._directory.chmod(0o1777)


def _open_lock(path: Path) -> int:
    # First without O_CREAT: the kernel refuses that for files of others in such a directory (fs.protected_regular).
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o644)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _unusable(path, f"it belongs to user {status.st_uid} or others may write to it")


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


def _holder(inode: int) -> str:
    """Name the process that holds a lock on a file, as far as the kernel tells."""
    try:
        lines = _LOCKS.read_text("ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split()
        if "FLOCK" in fields and any(field.endswith(f":{inode}") for field in fields):
            return f"process {fields[fields.index('FLOCK') + 3]}"
    return "another process"


def _locked(gpu_uuid: str, holder: str) -> GpuLockedError:
    return GpuLockedError(
        f"GPU {gpu_uuid} is managed by {holder}: expected no other writer",
        hint="End it, or let it make the change.",
    )


def _unusable(path: Path, why: str | None) -> RecordError:
    return RecordError(
        f"record {path}: {why}: expected a file that only this user or root writes",
        hint=f"Remove it to count every living instance as foreign, or set {STATE_VARIABLE} to another directory.",
    )
