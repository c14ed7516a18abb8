"""The first file of a run folder, `run.json`: everything that is needed to know what was run, and to run it again."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from clover.errors import ConfigurationError

#: Raised when a field changes its meaning; readers refuse what is newer than they are.
SCHEMA = 1

Origin = Literal["flag", "env", "file", "default"]
"""Where the value of a setting is from; `file` is the settings file (clover.toml)."""

State = Literal["open", "finished", "failed", "interrupted"]


class RunError(ConfigurationError):
    """A run folder cannot be written or read; the message names the folder and why."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: its value as the command understood it, and who gave it."""

    value: Any
    origin: Origin


class InputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the run depends on.

    Attributes:
        what: Its part, such as `carbon trace`, `arrival trace`, `performance table`.
        path: Where it was.
        sha256: Of its bytes.
        size_bytes: Its length.
    """

    what: str
    path: str
    sha256: str
    size_bytes: int


class Git(msgspec.Struct, frozen=True, kw_only=True):
    """The checkout that the code came from; `dirty` if files that git follows were changed."""

    commit: str
    dirty: bool


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What the run ran on.

    Attributes:
        clover, python: Versions.
        packages: Versions of the installed packages that Clover depends on.
        git: None if the code is not from a checkout, or git is not there.
        platform: Operating system and machine.
        host: Name of the host.
        processors: Usable by this process.
        memory_bytes: Of the host; None where it cannot be told.
        variables: `CLOVER_*` of the environment; secrets are replaced by `***`.
        arguments: The command line, secrets replaced.
    """

    clover: str
    python: str
    packages: dict[str, str]
    git: Git | None
    platform: str
    host: str
    processors: int
    memory_bytes: int | None
    variables: dict[str, str]
    arguments: tuple[str, ...]


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What served, or would have.

    Attributes:
        label: `SIM` for simulated GPUs, `MODEL` where nothing is served at all, `CPU` for slices of cores, `GPU` for
            real ones.
        backend: `sim`, `cpu`, `nvml`, or `model`.
        gpu_model: Board whose rules hold.
        gpus: Number of GPUs by node.
        uuids: Of the GPUs by node, as the nodes reported them; empty if not known.
    """

    label: str
    backend: str
    gpu_model: str
    gpus: dict[str, int]
    uuids: dict[str, tuple[str, ...]] = {}


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of `run.json`.

    Attributes:
        schema: Version of this form.
        run: Name of the run, that of its folder.
        command: `up`, `generate` or `experiment`.
        state: `open` until the end; then how it ended.
        reason: Why it failed; empty otherwise.
        started_at, ended_at: ISO 8601 in UTC; `started_ms` and `ended_ms` are the same since the epoch.
        deployment: Name of the deployment, None for an experiment.
        seed: Of everything random.
        settings: Every option of the command by its long name without dashes.
        inputs: Files that it depends on.
        hardware: What served.
        surroundings: Versions, host, environment.
        pid, pid_started: The process, so that an open run whose process is gone can be told.
    """

    schema: int = SCHEMA
    run: str
    command: str
    state: State = "open"
    reason: str = ""
    started_at: str
    started_ms: int
    ended_at: str | None = None
    ended_ms: int | None = None
    deployment: str | None
    seed: int | None
    settings: dict[str, Setting]
    inputs: tuple[InputFile, ...]
    hardware: Hardware
    surroundings: Surroundings
    pid: int
    pid_started: str


class _Version(msgspec.Struct):
    schema: int


def encode_record(record: RunRecord) -> bytes:
    """Return a record as indented JSON, for people too."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def decode_record(data: bytes, where: str) -> RunRecord:
    """Read `run.json`.

    Raises:
        RunError: It is not one, or of a newer form; the message begins with `where`.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).schema
        if version > SCHEMA:
            raise RunError(
                f"{where}: schema = {version}, this version of Clover reads up to {SCHEMA}",
                hint="a newer Clover wrote it; read it with that one",
            )
        return msgspec.json.decode(data, type=RunRecord)
    except msgspec.DecodeError as error:
        raise RunError(f"{where}: {error}") from error
