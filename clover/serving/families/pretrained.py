"""Networks of the transformers library: from published weights, or from their architecture alone; workers only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from clover.serving.families.devices import device
from clover.serving.port import ServingError, first_line
from clover.serving.recipe import Recipe
from clover.serving.weights import read_checked

#: A checkpoint may have this part more or fewer parameters than stated (a head that is not used).
_TOLERANCE: Final = 0.02

_FILE: Final = "model.safetensors"


def network(recipe: Recipe, kind: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """Return a network, ready to infer on the worker's device.

    Args:
        recipe: Which weights.
        kind: Class of the network.
        config: Architecture that random weights are made for; published weights bring their own.

    Raises:
        ServingError: The weights are missing, damaged, not the stated ones, or of another network.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if recipe.is_random:
        torch.manual_seed(0)
        made = kind(config)
    else:
        made = _published(recipe, kind)
    _check_size(recipe, made)
    made.eval().requires_grad_(requires_grad=False)
    torch.nn.Module.to(made, device())
    return made


def source(recipe: Recipe) -> str:
    """Return the folder or hub id of a variant's weights.

    Raises:
        ServingError: The folder holds none, or the file is not the stated one.
    """
    local = Path(recipe.folder) / recipe.weights
    if not local.is_dir():
        if local.is_absolute() and recipe.weights.startswith("/"):
            raise ServingError(f"the weights of {recipe.variant} are not there: no folder {local}")
        return recipe.weights
    if not (local / _FILE).is_file() and not (local / f"{_FILE}.index.json").is_file():
        raise ServingError(
            f"{local} holds no {_FILE}: weights of {recipe.variant} are loaded from safetensors only",
            hint="save_pretrained() of the transformers library writes it",
        )
    if recipe.sha256:
        read_checked(local / _FILE, recipe)
    return str(local)


def _published(recipe: Recipe, kind: type[PreTrainedModel]) -> PreTrainedModel:
    place = source(recipe)
    try:
        loaded: Any = kind.from_pretrained(place, use_safetensors=True, output_loading_info=True)
    except torch.OutOfMemoryError:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as exc:
        raise ServingError(
            f"the weights of {recipe.variant} cannot be loaded from {place}: {first_line(exc)}",
            hint="give --weights FOLDER with config.json and model.safetensors, or --weights random",
        ) from exc
    made, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ServingError(
            f"the weights of {recipe.variant} in {place} do not fit the network: {len(missing)} tensors are missing, "
            f"such as {missing[0]}"
        )
    return made


def _check_size(recipe: Recipe, made: PreTrainedModel) -> None:
    found = made.num_parameters()
    if recipe.parameters and abs(found - recipe.parameters) > _TOLERANCE * recipe.parameters:
        raise ServingError(
            f"the network has {found:,} parameters, but {recipe.application}/{recipe.variant} has "
            f"{recipe.parameters:,}: these are the weights of another variant"
        )
