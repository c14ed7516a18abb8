from __future__ import annotations

import importlib.util
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from clover.errors import ConfigurationError
from clover.serving import availability
from clover.serving.samples import MAX_INPUT_BYTES, SAMPLES, load_input, sample_inputs

if TYPE_CHECKING:
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBPrest", "image/webp"),
        (b"GIF89arest", "image/gif"),
        (b"BMrest", "image/bmp"),
    ],
)
def test_a_picture_file_is_known_by_its_content(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(content)
    assert load_input(str(path)) == (kind, content)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(ConfigurationError, match="not a PNG"):
        load_input(str(path))


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        load_input("tabby")
    assert "chelsea" in caught.value.hint


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_input(str(tmp_path))


def test_a_picture_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(PNG.ljust(MAX_INPUT_BYTES + 1, b"\0"))
    with pytest.raises(ConfigurationError, match="larger than 20 MB"):
        load_input(str(path))


def test_samples_that_are_not_installed_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match="scikit-image") as caught:
        sample_inputs()
    assert "clover-serve[models]" in caught.value.hint


@pytest.mark.models
@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason=availability.MODELS_HINT)
def test_every_sample_is_there() -> None:
    samples = sample_inputs()
    assert [sample.name for sample in samples] == list(SAMPLES)
    assert {sample.content_type for sample in samples} == {"image/png", "image/jpeg"}
    assert all(10_000 < len(sample.payload) < 1_000_000 for sample in samples)


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in {"torch", "pillow"}:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    assert availability.torch_build() is None
    with pytest.raises(ConfigurationError, match="torch, pillow") as caught:
        availability.require_models()
    assert "clover-serve[models]" in caught.value.hint


def test_with_everything_installed_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: "2.13.0+cpu")
    assert availability.torch_build() == "2.13.0+cpu"
    assert availability.missing_packages() == ()
    availability.require_models()
