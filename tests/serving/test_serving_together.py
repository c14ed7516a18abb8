"""Several requests with one inference: the worker's end without models, the agent's end, and the families that can."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from serving_support import fakes, request, run, spec

from clover.catalog import application_names, load_application, load_recipes
from clover.serving.availability import MODELS_HINT, missing_packages
from clover.serving.duty import DutyCycle
from clover.serving.family import family_names, forms_batches
from clover.serving.framing import MAX_PAYLOAD_BYTES, Exhausted, Job, Refused, Result
from clover.serving.port import InvalidInputError, OutOfMemoryError, Served, ServingError, WorkerDiedError
from clover.serving.process import ProcessServicer
from clover.serving.questions import encode_question
from clover.serving.recipe import Recipe
from clover.serving.samples import load_input
from clover.serving.together import Together, time_full_batch

needs_models = pytest.mark.skipif(bool(missing_packages("albert") or missing_packages()), reason=MODELS_HINT)


class Model:
    """Turns bytes around; memory holds so many inputs at once."""

    def __init__(self, most: int = 64) -> None:
        self.most = most
        self.sizes: list[int] = []

    def prepare(self, content_type: str, payload: bytes) -> bytes:
        assert content_type == "text/plain"
        if payload == b"bad":
            raise InvalidInputError("not a text")
        return payload

    def infer(self, prepared: bytes) -> bytes:
        if prepared == b"large":
            raise MemoryError
        return prepared[::-1]

    def infer_batch(self, prepared: list[bytes]) -> list[bytes]:
        self.sizes.append(len(prepared))
        if len(prepared) > self.most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return [self.infer(one) for one in prepared]

    def render(self, raw: bytes) -> tuple[str, bytes]:
        return "text/plain", raw

    def warm_up(self) -> None:
        """Nothing to do."""


def answered(model: Model, *payloads: bytes) -> tuple[list[Result | Refused | Exhausted], list[bytes]]:
    """Return outcomes of a batch, and what was tried alone."""
    tried: list[bytes] = []

    def alone(job: Job) -> Result | Exhausted:
        tried.append(job.payload)
        try:
            payload = model.infer(job.payload)
        except MemoryError:
            return Exhausted(number=job.number, reason="out of memory")
        return Result(number=job.number, content_type="text/plain", payload=payload, cpu_s=0.0)

    together = Together(model, lambda kind, payload: (kind, payload), DutyCycle(1.0), alone)
    jobs = [Job(number=n, content_type="text/plain", payload=p) for n, p in enumerate(payloads, start=7)]
    return together.outcomes(jobs), tried


def test_each_job_of_a_batch_has_its_own_outcome_in_the_order_of_the_jobs() -> None:
    model = Model()
    outcomes, tried = answered(model, b"ab", b"bad", b"cd")
    assert [outcome.number for outcome in outcomes] == [7, 8, 9]
    first, refused, last = outcomes
    assert isinstance(first, Result)
    assert isinstance(last, Result)
    assert (first.payload, last.payload) == (b"ba", b"dc")
    assert refused == Refused(number=8, reason="not a text")
    assert (model.sizes, tried) == ([2], [])
    assert first.instance_s == last.instance_s > 0


def test_a_batch_that_does_not_fit_is_tried_one_by_one_and_only_the_large_one_fails() -> None:
    model = Model()
    outcomes, tried = answered(model, b"ab", b"large", b"cd")
    assert tried == [b"ab", b"large", b"cd"]
    assert [type(outcome) for outcome in outcomes] == [Result, Exhausted, Result]
    outcomes, tried = answered(Model(most=2), b"ab", b"bc", b"cd")
    assert [type(outcome) for outcome in outcomes] == [Result] * 3
    assert len(tried) == 3


def test_what_is_left_alone_is_served_alone_and_an_unforeseen_error_is_not_swallowed() -> None:
    model = Model()
    outcomes, tried = answered(model, b"bad", b"ab")
    assert ([type(outcome) for outcome in outcomes], tried, model.sizes) == ([Refused, Result], [b"ab"], [])

    class Broken(Model):
        def infer_batch(self, prepared: list[bytes]) -> list[bytes]:
            raise RuntimeError(f"no idea what to do with {len(prepared)}")

    with pytest.raises(RuntimeError, match="no idea"):
        answered(Broken(), b"ab", b"cd")


def test_a_full_batch_is_timed_when_it_fits() -> None:
    model = Model(most=4)
    assert (time_full_batch(model, ("text/plain", b"ab"), 4, 1.0) or 0.0) > 0.0
    assert time_full_batch(model, ("text/plain", b"ab"), 5, 1.0) is None


def test_families_that_form_batches_say_so_without_being_imported() -> None:
    assert {family for family in family_names() if forms_batches(family)} == {
        "albert",
        "detection",
        "efficientnet",
        "efficientnet_lite",
    }
    assert not forms_batches("torchscript")
    assert all(load_application(name).servicer in {*family_names(), "table"} for name in application_names())


# --- the agent's end


def test_answers_of_a_batch_come_back_to_their_requests() -> None:
    async def scenario() -> None:
        async with fakes(power_w_per_core=8.0) as servicer:
            refuses, exhausts = await servicer.start(spec("refuses")), await servicer.start(spec("exhausts"))
            enormous = bytes(MAX_PAYLOAD_BYTES + 1)
            answers = await refuses.serve_together([request(p) for p in (b"ab", b"bad", enormous, b"cd")])
            assert [type(answer) for answer in answers] == [Served, InvalidInputError, InvalidInputError, Served]
            good = [answer for answer in answers if isinstance(answer, Served)]
            assert [answer.payload for answer in good] == [b"ba", b"dc"]
            assert [answer.energy_j for answer in good] == [2.0, 2.0]
            assert isinstance((await exhausts.serve_together([request(b"large"), request(b"ok")]))[0], OutOfMemoryError)
            assert (await refuses.serve(request(b"next"))).payload == b"txen"

    run(scenario())


def test_a_batch_that_is_cancelled_leaves_the_next_request_alone() -> None:
    async def scenario() -> None:
        async with fakes() as servicer:
            worker = await servicer.start(spec("good"))
            for _ in range(20):
                given_up = asyncio.create_task(worker.serve_together([request(b"old")] * 3))
                await asyncio.sleep(0)
                given_up.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await given_up
                assert (await worker.serve(request(b"new"))).payload == b"wen"

    run(scenario())


@pytest.mark.parametrize("how", ["crashes", "hangs"])
def test_a_death_is_the_failure_of_the_whole_batch(how: str) -> None:
    async def scenario() -> None:
        async with fakes(request_s=0.3) as servicer:
            worker = await servicer.start(spec(how))
            with pytest.raises(WorkerDiedError):
                await worker.serve_together([request(b"a"), request(b"b")])

    run(scenario())


# --- real families


def results(answers: list[Served | ServingError]) -> list[dict[str, Any]]:
    assert all(isinstance(answer, Served) for answer in answers), answers
    return [json.loads(answer.payload) for answer in answers if isinstance(answer, Served)]


@pytest.mark.models
@needs_models
def test_pictures_get_the_labels_together_that_they_get_alone() -> None:
    sample = load_input("chelsea")

    async def scenario() -> None:
        servicer = ProcessServicer(recipes=load_recipes("efficientnet_lite"), batch_size=3, sample=sample)
        try:
            worker = await servicer.start(spec("lite0"))
            assert worker.batch_ms is not None
            assert worker.batch_ms > 0
            asked = [request(load_input(name)[1], "image/png") for name in ("chelsea", "coffee", "camera")]
            alone = [await worker.serve(one) for one in asked]
            together = await worker.serve_together(asked)
            for one, many in zip(results([*alone]), results(together), strict=True):
                assert many["label"] == one["label"]
                assert many["probability"] == pytest.approx(one["probability"], abs=1e-3)
            mixed = await worker.serve_together([asked[0], request(b"no picture", "image/png"), asked[1]])
            assert [type(answer) for answer in mixed] == [Served, InvalidInputError, Served]
        finally:
            await servicer.close()

    run(scenario(), limit_s=100.0)


#: A user's own family that answers one at a time.
SINGLE = """
class Single:
    def prepare(self, content_type, payload):
        return payload

    def infer(self, prepared):
        return prepared

    def render(self, raw):
        return "text/plain", raw

    def warm_up(self):
        pass


def load(recipe):
    return Single()
"""


@pytest.mark.models
@needs_models
def test_a_family_without_batches_is_refused_when_it_is_loaded_for_them(tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text(SINGLE)
    recipe = Recipe(application="mine", family="single.py", variant="small", folder=str(tmp_path))

    async def scenario() -> None:
        for size, refused in ((1, False), (2, True)):
            servicer = ProcessServicer(recipes={"small": recipe}, batch_size=size, sample=("text/plain", b"a"))
            try:
                if refused:
                    with pytest.raises(ServingError, match="has no infer_batch") as caught:
                        await servicer.start(spec("small", application="mine"))
                    assert "--max-batch-size" in caught.value.hint
                else:
                    worker = await servicer.start(spec("small", application="mine"))
                    assert (await worker.serve(request(b"a"))).payload == b"a"
                    assert worker.batch_ms is None
            finally:
                await servicer.close()

    run(scenario(), limit_s=60.0)


@pytest.mark.models
@needs_models
def test_questions_of_different_length_get_the_scores_together_that_they_get_alone() -> None:
    context = "The harbour of Brackwater was dug by hand. Ida Lorne led the work."
    asked = [encode_question("Who?", context), encode_question("Who led the work?", context * 3)]

    async def scenario() -> None:
        servicer = ProcessServicer(recipes=load_recipes("albert", "random"), batch_size=2, sample=asked[0])
        try:
            worker = await servicer.start(spec("base", application="albert"))
            requests = [request(payload, kind) for kind, payload in asked]
            alone = results([await worker.serve(one) for one in requests])
            together = results(await worker.serve_together(requests))
            for one, many in zip(alone, together, strict=True):
                assert many["tokens"] == one["tokens"]
                assert many["score"] == pytest.approx(one["score"], abs=1e-2)
                assert many["no_answer_score"] == pytest.approx(one["no_answer_score"], abs=1e-2)
        finally:
            await servicer.close()

    run(scenario(), limit_s=100.0)
