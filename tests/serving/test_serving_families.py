"""Families with random weights in real worker processes, and a user's own TorchScript file."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from serving_support import request, run, spec

from clover.catalog import load_recipes
from clover.serving.availability import MODELS_HINT, missing_packages
from clover.serving.family import load_model
from clover.serving.pictures_batch import BATCH, pack
from clover.serving.port import InvalidInputError, OutOfMemoryError, ServingError
from clover.serving.process import ProcessServicer
from clover.serving.questions import encode_question
from clover.serving.recipe import Recipe
from clover.serving.samples import load_input
from clover.serving.worker_process import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clover.serving.worker import ProcessWorker

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(bool(missing_packages("albert") or missing_packages()), reason=MODELS_HINT),
]

#: Published sizes in millions, and what they were measured to be: reference figures, not ours.
SIZES = {
    "albert": {"base": 11.1, "large": 16.6, "xlarge": 54.5, "xxlarge": 205.8},
    "efficientnet": {"b0": 5.3, "b1": 7.8, "b2": 9.1, "b3": 12.2, "b4": 19.3, "b5": 30.4, "b6": 43.0, "b7": 66.3},
    "detection": {"r18": 20.2, "r50": 42.9, "r101": 76.6},
}

LONG_TEXT = "The harbour was dug by hand. " * 2000


@contextlib.asynccontextmanager
async def servicer(app: str, weights: str = "random", **more: Any) -> AsyncIterator[ProcessServicer]:
    made = ProcessServicer(
        recipes=load_recipes(app, weights), settings=WorkerSettings(ready_s=100.0, request_s=100.0), **more
    )
    try:
        yield made
    finally:
        await made.close()


async def ask(worker: ProcessWorker, content: tuple[str, bytes]) -> dict[str, Any]:
    served = await worker.serve(request(content[1], content[0]))
    assert served.content_type == "application/json"
    assert 0 < served.instance_ms <= served.service_ms
    return json.loads(served.payload)


async def refusal(worker: ProcessWorker, content: tuple[str, bytes]) -> str:
    with pytest.raises(InvalidInputError) as caught:
        await worker.serve(request(content[1], content[0]))
    return str(caught.value)


def test_albert_answers_from_the_text_and_refuses_what_is_no_question() -> None:
    async def scenario() -> None:
        async with servicer("albert") as started:
            worker = await started.start(spec("base", application="albert"))
            assert worker.ready.device == "cpu"
            assert worker.ready.versions["torch"]
            assert worker.ready.memory_mib > 100
            context = "The harbour of Brackwater was dug by hand. Ida Lorne led the work."
            result = await ask(worker, encode_question("Who led the work?", context))
            assert result["weights"].startswith("random weights")
            assert result["answer"] == context[result["start"] : result["end"]]
            assert result["answerable"] == bool(result["answer"])
            assert not result["truncated"]
            # A text of some ten thousand tokens is cut, and the answer says so.
            long = await ask(worker, encode_question("Who dug it?", LONG_TEXT))
            assert (long["truncated"], long["tokens"]) == (True, 512)
            assert long["answer"] == LONG_TEXT[long["start"] : long["end"]]
            assert "question is empty" in await refusal(worker, encode_question("  ", context))
            assert "context is empty" in await refusal(worker, encode_question("Who?", ""))
            assert "tokens, expected at most 384" in await refusal(worker, encode_question("who " * 600, context))
            assert "JSON" in await refusal(worker, ("application/json", b"{"))
            assert "content type" in await refusal(worker, load_input("chelsea"))
            assert (await ask(worker, encode_question("Who led the work?", context))) == result

    run(scenario(), limit_s=110.0)


def test_detection_finds_boxes_or_nothing_in_one_picture_or_several() -> None:
    async def scenario() -> None:
        async with servicer("detection") as started:
            worker = await started.start(spec("r18", application="detection"))
            one = await ask(worker, load_input("chelsea"))
            assert one["weights"].startswith("random weights")
            assert isinstance(one["detections"], list)
            two = await ask(worker, (BATCH, pack([load_input("chelsea")[1], load_input("rocket")[1]])))
            assert [set(each) for each in two["results"]] == [{"detections"}] * 2
            assert "expected 1 to 64" in await refusal(worker, (BATCH, pack([])))
            assert "not a batch" in await refusal(worker, (BATCH, b"\xc1"))
            assert "picture" in await refusal(worker, ("image/png", b"no"))

    run(scenario(), limit_s=110.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("app", list(SIZES))
def test_all_sizes_build_with_the_published_number_of_parameters(app: str) -> None:
    program = Path(__file__).with_name("process_sizes.py")
    done = subprocess.run([sys.executable, str(program), app], capture_output=True, text=True, check=True)
    built = json.loads(done.stdout.splitlines()[-1])
    assert list(built) == list(SIZES[app])
    for variant, size in SIZES[app].items():
        assert round(built[variant]["parameters"] / 1e6, 1) == size, variant
        assert built[variant]["parameters"] == load_recipes(app)[variant].parameters
        assert built[variant]["result"]["weights"].startswith("random weights")


# --- wrong weights


def test_weights_that_are_missing_damaged_or_of_another_network_are_told(tmp_path: Path) -> None:
    program = Path(__file__).with_name("process_weights.py")
    done = subprocess.run([sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, check=True)
    errors = json.loads(done.stdout.splitlines()[-1])
    assert "holds no model.safetensors" in errors["empty"]
    assert "cannot be loaded" in errors["damaged"]
    assert "has SHA-256" in errors["altered"]
    assert "these are the weights of another variant" in errors["other"]
    assert "tensors are missing" in errors["headless"]
    assert "cannot be loaded from nobody/nothing" in errors["hub"]
    assert errors["good"] == ""


# --- TorchScript

#: Writes a "detector" that always reports the same three candidates (two of them the same object, one too weak), and a
#: module that asks for 64 GiB when the picture is white.
EXPORT = """
import sys
import torch

class Boxes(torch.nn.Module):
    def forward(self, x):
        rows = torch.tensor([
            [320.0, 320.0, 200.0, 100.0, 0.9, 0.1, 0.9],
            [325.0, 320.0, 200.0, 100.0, 0.8, 0.1, 0.9],
            [100.0, 300.0, 50.0, 50.0, 0.9, 0.05, 0.1],
        ])
        if float(x.mean()) > 0.99:
            rows = torch.ones(1 << 34).reshape(1, -1)[:, :7]
        return rows.unsqueeze(0).repeat(x.shape[0], 1, 1)

torch.jit.script(Boxes()).save(sys.argv[1])
"""

APPLICATION = """
name = "mine"
title = "My detector"
accuracy_metric = "COCO mAP 50-95, %"
request = "one picture"
servicer = "torchscript"

[options]
pixels = 640
output = "boxes"
labels = "labels.txt"
threshold = 0.3

[variants.small]
accuracy = 49.0
source = "a test"
weights = "small.torchscript"

[variants.altered]
accuracy = 50.0
source = "a test"
weights = "small.torchscript"
sha256 = "0000"

[variants.missing]
accuracy = 51.0
source = "a test"
weights = "nowhere.torchscript"

[variants.garbage]
accuracy = 52.0
source = "a test"
weights = "labels.txt"

[variants.other]
accuracy = 53.0
source = "a test"
weights = "small.torchscript"
options = { labels = "coco" }

[variants.typo]
accuracy = 54.0
source = "a test"
weights = "small.torchscript"
options = { threshhold = 0.5 }
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.toml").write_text(APPLICATION)
    (folder / "labels.txt").write_text("# two\ncat\ndog\n")
    # TorchScript reads the source, so that it must be a file.
    (folder / "export.py").write_text(EXPORT)
    command = [sys.executable, "-W", "ignore", str(folder / "export.py"), str(folder / "small.torchscript")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "mine.toml"


def test_a_torchscript_detector_gives_boxes_in_the_pixels_of_the_picture(mine: Path, tmp_path: Path) -> None:
    white = _png(64, 64, 255)

    async def scenario() -> None:
        async with servicer(str(mine), "", log_folder=tmp_path) as started:
            worker = await started.start(_mine("small"))
            # 451 x 300, letterboxed into 640: scale 640 / 451, 107 grey rows above.
            result = await ask(worker, load_input("chelsea"))
            (found,) = result["detections"]
            assert (found["label"], found["score"]) == ("dog", pytest.approx(0.81))
            assert found["box"] == pytest.approx([155.0, 114.9, 296.0, 185.4], abs=1.0)
            assert "weights" not in result
            # Out of memory fails that request, and nothing else.
            with pytest.raises(OutOfMemoryError, match="out of memory, the instance has 4864 MiB"):
                await worker.serve(request(white, "image/png"))
            assert await ask(worker, load_input("chelsea")) == result

    run(scenario(), limit_s=100.0)


def test_a_torchscript_file_that_cannot_be_used_is_told(mine: Path) -> None:
    told = {
        "altered": "has SHA-256",
        "missing": r"no file .*nowhere\.torchscript",
        "garbage": "not a TorchScript file",
        "other": "80 labels need 3 dimensions and 85 values",
        "typo": "threshhold",
    }

    async def scenario() -> None:
        async with servicer(str(mine), "") as started:
            starts = [started.start(_mine(variant)) for variant in told]
            for text, error in zip(told.values(), await asyncio.gather(*starts, return_exceptions=True), strict=True):
                assert isinstance(error, ServingError)
                with pytest.raises(ServingError, match=text):
                    raise error

    run(scenario(), limit_s=100.0)


def _mine(variant: str) -> Any:
    return spec(variant, application="mine", memory_mib=4864)


def _png(width: int, height: int, grey: int) -> bytes:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.new("RGB", (width, height), (grey,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_unknown_architecture_is_told_with_those_that_there_are() -> None:
    def recipe(family: str, folder: str = "") -> Recipe:
        return Recipe(application="mine", family=family, variant="small", weights="random", folder=folder)

    with pytest.raises(
        ServingError, match="servicer 'resnet9000' of mine is unknown, expected one of albert, detection"
    ):
        load_model(recipe("resnet9000"))
    with pytest.raises(ServingError, match="no file .*none.py"):
        load_model(recipe("none.py", "/nowhere"))
    with pytest.raises(ServingError, match="there is no real model of the application 'mine'"):
        load_model(recipe("table"))
    with pytest.raises(ServingError, match="has no function load"):
        load_model(recipe("clover.serving.samples"))
