"""What a family of models must offer to be served, and how its module is found. Knows nothing of torch."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from clover.serving import families
from clover.serving.port import ServingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clover.serving.recipe import Recipe

#: Modules in the package of families that are tools, not families.
TOOLS = frozenset({"batches", "devices", "pictures", "pretrained"})


#: Families that ship whose models are `BatchingModel`s; an export to TorchScript may be for one batch size only.
_BATCHING = frozenset({"albert", "detection", "efficientnet", "efficientnet_lite"})


class Model(Protocol):
    """What a family's function `load(recipe)` returns; a prepared input and a raw result are its own business."""

    def prepare(self, content_type: str, payload: bytes) -> Any:
        """Decode an input (the host's part); `InvalidInputError` if that is impossible."""
        ...

    def infer(self, prepared: Any) -> Any:
        """Compute (the instance's part, which is held back to its share)."""
        ...

    def render(self, raw: Any) -> tuple[str, bytes]:
        """Return content type and bytes of a result; see `Recipe.render`."""
        ...

    def warm_up(self) -> None:
        """Make the first request as fast as the others."""
        ...


@runtime_checkable
class BatchingModel(Model, Protocol):
    """A model that can answer several requests with one inference."""

    def infer_batch(self, prepared: Sequence[Any]) -> Sequence[Any]:
        """Compute for several prepared inputs at once; return a raw result for each, in their order."""
        ...


def require_batches(model: Model, recipe: Recipe) -> BatchingModel:
    """Return the model if it can answer requests together; `ServingError` otherwise."""
    if not isinstance(model, BatchingModel):
        raise ServingError(
            f"the family {recipe.family!r} of {recipe.application} has no infer_batch(prepared)",
            hint="leave --max-batch-size out",
        )
    return model


def family_names() -> list[str]:
    """Return the names of the families that ship."""
    names = {module.name for module in pkgutil.iter_modules(families.__path__)}
    return sorted(name for name in names - TOOLS if not name.startswith("_"))


def forms_batches(family: str) -> bool:
    """Return whether a family that ships can answer several requests at once, without importing torch."""
    return family in _BATCHING


def load_model(recipe: Recipe) -> Model:
    """Import the family of a recipe and load the variant.

    Raises:
        ServingError: There is no such family, or the variant cannot be loaded.
        ImportError: A library that the family needs is not installed.
    """
    load: Callable[[Recipe], Model] | None = getattr(_module(recipe), "load", None)
    if load is None:
        raise ServingError(f"the family {recipe.family!r} of {recipe.application} has no function load(recipe)")
    return load(recipe)


def _module(recipe: Recipe) -> ModuleType:
    if recipe.family in {"", "table"}:
        raise ServingError(f"there is no real model of the application {recipe.application!r}")
    if recipe.family.endswith(".py"):
        return _from_file(Path(recipe.folder) / recipe.family)
    if "." in recipe.family:
        return importlib.import_module(recipe.family)
    if recipe.family not in family_names():
        known = ", ".join(family_names())
        raise ServingError(f"servicer {recipe.family!r} of {recipe.application} is unknown, expected one of {known}")
    return importlib.import_module(f"{families.__name__}.{recipe.family}")


def _from_file(path: Path) -> ModuleType:
    """Import a module that the user wrote, from the file beside the application file."""
    spec = importlib.util.spec_from_file_location(f"clover_family_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ServingError(f"the family's module is not there: no file {path}")
    module = importlib.util.module_from_spec(spec)
    # Before it runs, as an import does it: dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
