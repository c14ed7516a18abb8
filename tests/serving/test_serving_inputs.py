"""What requests ask about: files, batches, references; and boxes that show the same thing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from clover.catalog import load_application
from clover.errors import ConfigurationError
from clover.serving.boxes import overlaps, suppressed
from clover.serving.framing import MAX_PAYLOAD_BYTES
from clover.serving.inputs import batch_of, inputs_for
from clover.serving.pictures_batch import BATCH, unpack
from clover.serving.port import InvalidInputError
from clover.serving.questions import SAMPLES, sample_questions
from clover.serving.references import REFERENCE, Fetcher

if TYPE_CHECKING:
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_squad_file_gives_its_questions(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    qas = [{"question": " Who? ", "id": "1", "is_impossible": False, "answers": []}, {"question": "Why?", "id": "2"}]
    data = [{"title": "t", "paragraphs": [{"context": "Ida did.", "qas": qas}]}]
    path.write_text(json.dumps({"version": "v2.0", "data": data}))
    asked = inputs_for(load_application("albert"), path)
    assert [json.loads(payload) for _, payload in asked] == [
        {"question": "Who?", "context": "Ida did."},
        {"question": "Why?", "context": "Ida did."},
    ]
    assert {kind for kind, _ in asked} == {"application/json"}
    for content, told in (
        ('{"data": 3}', "format of SQuAD"),
        ('{"data": []}', "no question"),
        ("[", "format of SQuAD"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=told):
            inputs_for(load_application("albert"), path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        inputs_for(load_application("albert"), tmp_path / "none.json")


def test_the_sample_questions_are_about_their_texts() -> None:
    assert len(sample_questions()) == len(SAMPLES) == len({question for question, _ in SAMPLES})


def test_a_folder_of_pictures_gives_one_or_as_many_as_a_request_has(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(PNG + bytes([number]))
    (tmp_path / "notes.txt").write_text("not a picture")
    single = inputs_for(load_application("efficientnet_lite"), tmp_path)
    assert single == [("image/png", PNG + bytes([number])) for number in range(3)]
    batches = inputs_for(load_application("detection"), tmp_path)
    assert len(batches) == 3
    for number, (kind, payload) in enumerate(batches):
        assert kind == BATCH
        first, second, *rest = unpack(payload)
        assert first == PNG + bytes([8 * number % 3])
        assert second != first
        assert len(rest) == 6
    with pytest.raises(ConfigurationError, match="expected a folder"):
        inputs_for(load_application("detection"), tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="holds no pictures"):
        inputs_for(load_application("detection"), tmp_path / "empty")


def test_a_batch_above_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ConfigurationError, match="65 MiB together, a request may have 32 MiB"):
        batch_of([bytes(MAX_PAYLOAD_BYTES), bytes(33 * 2**20)])


def test_references_lead_only_below_the_roots(tmp_path: Path) -> None:
    root, other = tmp_path / "inputs", tmp_path / "other"
    for folder in (root, other):
        folder.mkdir()
        (folder / "a b.png").write_bytes(PNG)
    (root / "out.png").symlink_to(other / "a b.png")
    fetcher = Fetcher([str(root), "s3://bucket/inputs"])
    assert fetcher.resolve("image/png", b"x") == ("image/png", b"x")
    good = root / "a b.png"
    for reference in (str(good), good.as_uri(), f"# a comment\r\n{good}\r\n"):
        assert fetcher.resolve(REFERENCE, reference.encode()) == ("image/png", PNG)
    for reference in (
        str(other / "a b.png"),
        f"{root}/../other/a b.png",
        str(root / "out.png"),
        "s3://bucket/inputs/../secret",
        "s3://bucket/inputs-of-others/x",
        "http://localhost/x",
        "memory://x",
    ):
        with pytest.raises(InvalidInputError, match="may not be read here"):
            fetcher.resolve(REFERENCE, reference.encode())
    with pytest.raises(InvalidInputError, match="inputs may lie below nothing"):
        Fetcher([]).resolve(REFERENCE, str(good).encode())
    with pytest.raises(InvalidInputError, match="cannot be read"):
        fetcher.resolve(REFERENCE, str(root / "none.png").encode())
    with pytest.raises(InvalidInputError, match="of one reference was expected, got 0"):
        fetcher.resolve(REFERENCE, b"# nothing")
    with pytest.raises(InvalidInputError, match="UTF-8"):
        fetcher.resolve(REFERENCE, b"\xff")
    with pytest.raises(InvalidInputError, match="more than 0 MiB"):
        Fetcher([str(root)], max_bytes=4).resolve(REFERENCE, str(good).encode())


def test_an_object_store_is_read_through_fsspec() -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://inputs/picture.jpg", "wb") as file:
        file.write(b"bytes")
    assert Fetcher(["memory://inputs"]).resolve(REFERENCE, b"memory://inputs/picture.jpg") == ("image/jpeg", b"bytes")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Fetcher(["memory://inputs"]).resolve(REFERENCE, b"memory://inputs/none.jpg")


def test_of_boxes_that_show_the_same_the_best_is_kept() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [20, 20, 30, 30], [5, 5, 5, 5]], dtype=float)
    scores = np.array([0.6, 0.9, 0.5, 0.7, 0.1])
    classes = np.array([0, 0, 1, 0, 0])
    assert suppressed(boxes, scores, classes, overlap=0.5, most=10).tolist() == [1, 3, 2, 4]
    assert suppressed(boxes, scores, classes, overlap=0.9, most=10).tolist() == [1, 3, 0, 2, 4]
    assert suppressed(boxes, scores, classes, overlap=0.5, most=2).tolist() == [1, 3]
    assert suppressed(boxes[:0], scores[:0], classes[:0], overlap=0.5, most=2).tolist() == []
    assert overlaps(boxes[0], boxes).tolist() == pytest.approx([1.0, 90 / 110, 1.0, 0.0, 0.0])
