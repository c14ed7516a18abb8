"""Finds out what a run runs on: versions, checkout, host, environment without its secrets, hashes of its files."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from clover import __version__
from clover.bus.address import without_password
from clover.runs.folder import explained
from clover.runs.record import Git, InputFile, Surroundings

_DISTRIBUTION = "clover-serve"
_SECRET = re.compile(r"PASSWORD(?!_FILE)|TOKEN|SECRET|_KEY$")
#: A checkout on a slow disk must not hold a run up.
_GIT_WITHIN_S = 5.0


def surroundings(arguments: Sequence[str], environment: Mapping[str, str]) -> Surroundings:
    """Return what this process runs on.

    Args:
        arguments: The command line.
        environment: Its variables; only `CLOVER_*` are kept.
    """
    return Surroundings(
        clover=__version__,
        python=platform.python_version(),
        packages=package_versions(),
        git=git_state(Path(__file__).resolve().parents[2]),
        platform=platform.platform(),
        host=platform.node(),
        processors=_processors(),
        memory_bytes=_memory_bytes(),
        variables={key: _shown(key, value) for key, value in sorted(environment.items()) if key.startswith("CLOVER_")},
        arguments=tuple(shown_value(argument) for argument in arguments),
    )


def shown_value(text: str) -> str:
    """Return a value as it may be written down: a URL without its password."""
    return without_password(text) if "://" in text else text


def _shown(name: str, value: str) -> str:
    return "***" if _SECRET.search(name) else shown_value(value)


def package_versions() -> dict[str, str]:
    """Return versions of the installed packages that Clover declares, required or optional."""
    try:
        requirements = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    names = {match[0].lower() for line in requirements if (match := re.match(r"[A-Za-z0-9._-]+", line))}
    versions: dict[str, str] = {}
    for name in sorted(names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_state(checkout: Path) -> Git | None:
    """Return commit and state of a checkout; None if it is none, or git is not there or too slow."""
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    try:
        commit = _git(git, checkout, "rev-parse", "HEAD")
        changed = _git(git, checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return Git(commit=commit, dirty=bool(changed))


def _git(git: str, checkout: Path, *arguments: str) -> str:
    command = [git, "-C", str(checkout), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_WITHIN_S, check=True)
    return done.stdout.strip()


def hashed(what: str, path: Path) -> InputFile:
    """Return a file that a run depends on with its hash; raises RunError if it cannot be read."""
    with explained(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return InputFile(what=what, path=str(path.resolve()), sha256=digest, size_bytes=file.tell())


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
