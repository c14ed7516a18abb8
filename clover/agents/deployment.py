"""Where a deployment's server is: the state file that `up` and `server` write and every other command reads."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from clover.errors import ConfigurationError


class DeploymentState(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of `<state-dir>/<deployment>.json`.

    Attributes:
        deployment: Name.
        url: Of the server; may hold a password, hence the file's mode 0600.
        pid, pid_started: Process that wrote it and will remove it, with its start time (pids are used again).
        owner: `up` or `server`.
    """

    deployment: str
    url: str
    pid: int
    pid_started: str
    owner: str


def default_state_folder() -> Path:
    """Return `CLOVER_STATE_DIR`, or the user's state folder (XDG base directory specification)."""
    override = os.environ.get("CLOVER_STATE_DIR")
    if override:
        return Path(override)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "clover"


def read_state(folder: Path, deployment: str) -> DeploymentState | None:
    """Return the state of a deployment whose owner is alive, None otherwise."""
    path = folder / f"{deployment}.json"
    try:
        state = msgspec.json.decode(path.read_bytes(), type=DeploymentState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"state file {path}: {error}", hint="remove it if no deployment runs") from error
    return state if process_started(state.pid) == state.pid_started else None


def claim_state(folder: Path, deployment: str, *, url: str, owner: str) -> Path:
    """Write the state file; refuse if another living process owns the deployment.

    The file is created exclusively, so that of two that start at the same moment one is refused.
    """
    living = read_state(folder, deployment)
    if living is not None and living.pid != os.getpid():
        raise ConfigurationError(
            f"deployment {deployment!r} is already running (pid {living.pid})",
            hint="choose another name with --deployment, or stop that one",
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{deployment}.json"
    path.unlink(missing_ok=True)
    state = DeploymentState(
        deployment=deployment, url=url, pid=os.getpid(), pid_started=process_started(os.getpid()), owner=owner
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"deployment {deployment!r} is being started by another process") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(state))
    return path


def release_state(folder: Path, deployment: str) -> None:
    """Remove the state file if it is ours."""
    path = folder / f"{deployment}.json"
    try:
        if msgspec.json.decode(path.read_bytes(), type=DeploymentState).pid == os.getpid():
            path.unlink()
    except (OSError, msgspec.DecodeError):
        return


def given_url(redis: str | None) -> str | None:
    """Return the server's URL as the user gave it, by flag or by `CLOVER_REDIS`; None if not."""
    return redis or os.environ.get("CLOVER_REDIS") or None


def find_url(redis: str | None, folder: Path, deployment: str) -> str | None:
    """Return the server's URL: the given one, `CLOVER_REDIS`, or the state file's; None if there is none."""
    if given := given_url(redis):
        return given
    state = read_state(folder, deployment)
    # Between claiming the name and starting its server an owner has no address yet.
    return (state.url or None) if state else None


def process_started(pid: int) -> str:
    """Return something that tells a process from a later one with the same pid; empty if it does not live."""
    try:
        # Field 22 of stat is the start time in clock ticks; the command in brackets may hold blanks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _started_without_proc(pid)
    return "" if fields[0] == "Z" else fields[19]


def _started_without_proc(pid: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "alive"
