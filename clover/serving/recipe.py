"""What a worker needs to know to load one variant: which family, which weights, which options. Data only."""

from __future__ import annotations

from typing import Any, Final

import msgspec

#: Value of `Recipe.weights` that asks for the true architecture with random weights.
RANDOM: Final = "random"

#: Stands in every answer of such a model.
RANDOM_NOTE: Final = "random weights: the cost is real, the answer means nothing"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to load one variant.

    Attributes:
        application: Name of the application.
        family: Module that serves it: a name in `clover.serving.families`, a dotted module, or a `.py` file that lies
            beside the application file; `table` if there are only figures.
        variant: Name of the variant.
        weights: `random`, a folder or file (absolute), the id of a repository on the Hugging Face hub, or empty for
            where the family keeps its own.
        folder: Folder of the application file; relative paths begin there. Empty for applications that ship.
        sha256: Digest of the weight file; empty if none is stated.
        parameters: Number of parameters of the network, 0 if not stated.
        options: What the family wants to know, the application's and over them the variant's.
    """

    application: str
    family: str
    variant: str
    weights: str = ""
    folder: str = ""
    sha256: str = ""
    parameters: int = 0
    options: dict[str, Any] = {}

    @property
    def is_random(self) -> bool:
        """Whether the network gets random weights."""
        return self.weights == RANDOM

    def render(self, result: dict[str, Any]) -> tuple[str, bytes]:
        """Return content type and JSON of a result, which says so if the weights are random."""
        note = {"weights": RANDOM_NOTE} if self.is_random else {}
        return "application/json", msgspec.json.encode({**result, **note})
