"""Run as a process: builds every variant of an application with random weights and answers once with each.

Prints one JSON object: variant -> {"parameters": count, "result": what it answered}.
"""

from __future__ import annotations

import json
import sys

import torch

from clover.catalog import load_application, load_recipes
from clover.serving.family import load_model
from clover.serving.inputs import inputs_for

torch.set_num_threads(1)
torch.set_flush_denormal(True)

application = load_application(sys.argv[1])
kind, payload = inputs_for(application)[0]
built = {}
for variant, recipe in load_recipes(application.name, "random").items():
    model = load_model(recipe)
    if application.request_items > 1:
        from clover.serving.pictures_batch import unpack

        kind, payload = "image/png", unpack(payload)[0] if kind.endswith("msgpack") else payload
    _, result = model.render(model.infer(model.prepare(kind, payload)))
    built[variant] = {"parameters": model._model.num_parameters(), "result": json.loads(result)}
print(json.dumps(built))
