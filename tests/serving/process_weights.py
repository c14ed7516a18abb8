"""Run as a process: tries to load ALBERT from weights that are wrong in one way each.

Prints one JSON object: what is wrong -> the error, empty if there was none.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

# No network is waited for.
os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import AlbertConfig, AlbertForQuestionAnswering, AlbertModel, PreTrainedTokenizerFast

from clover.serving.family import load_model
from clover.serving.port import ServingError
from clover.serving.recipe import Recipe

CONFIG = {
    "vocab_size": 6000,
    "hidden_size": 32,
    "embedding_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TOKENIZER = Path(__file__).resolve().parents[2] / "clover" / "data" / "tokenizers" / "english.json"

folder = Path(sys.argv[1])
network = AlbertForQuestionAnswering(AlbertConfig(**CONFIG))
network.save_pretrained(folder / "good")
PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER)).save_pretrained(folder / "good")
AlbertModel(AlbertConfig(**CONFIG)).save_pretrained(folder / "headless")
network.save_pretrained(folder / "damaged")
(folder / "damaged" / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00 not safetensors")
(folder / "empty").mkdir()

size = network.num_parameters()
cases = {
    "good": {"weights": str(folder / "good"), "parameters": size},
    "empty": {"weights": str(folder / "empty")},
    "damaged": {"weights": str(folder / "damaged")},
    "altered": {"weights": str(folder / "good"), "sha256": "0" * 64},
    "other": {"weights": str(folder / "good"), "parameters": 2 * size},
    "headless": {"weights": str(folder / "headless")},
    "hub": {"weights": "nobody/nothing"},
}
errors = {}
for name, wrong in cases.items():
    try:
        model = load_model(Recipe(application="albert", family="albert", variant="small", **wrong))
        model.warm_up()
        errors[name] = ""
    except ServingError as error:
        errors[name] = str(error)
print(json.dumps(errors))
