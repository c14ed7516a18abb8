"""Inputs for question answering: a few pairs of our own, or a file in the format of SQuAD 2.0."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from clover.errors import ConfigurationError

#: Content type of a question.
QUESTION: Final = "application/json"

#: Most questions that are taken from a file.
MAX_QUESTIONS: Final = 2000

#: Largest file of questions, bytes (SQuAD 2.0's training part has 42 MB).
MAX_FILE_BYTES: Final = 200_000_000

_HARBOUR: Final = (
    "The harbour of Brackwater was dug by hand between 1871 and 1874. Three hundred men worked there under the "
    "engineer Ida Lorne, who had built canals before. The first ship to moor was the Marigold, loaded with timber. "
    "Since 1960 only fishing boats use the old basin, because modern ships need deeper water."
)
_BREAD: Final = (
    "To bake a simple bread, mix 500 grams of flour with 350 grams of water, ten grams of salt and three grams of "
    "yeast. Let the dough rest for twelve hours in a cool place. Then bake it in a covered pot at 240 degrees Celsius "
    "for half an hour, and for another fifteen minutes without the lid, so that the crust turns brown."
)
_COMET: Final = (
    "A comet is a body of ice and dust. When it comes near the Sun the ice turns to gas and forms a tail, which always "
    "points away from the Sun because light and the solar wind push it. Most comets come from far beyond Neptune and "
    "return after many years."
)

#: (question, context); the last of each text has no answer in it.
SAMPLES: Final = (
    ("Who led the digging of the harbour?", _HARBOUR),
    ("What did the first ship carry?", _HARBOUR),
    ("How deep is the old basin?", _HARBOUR),
    ("How long does the dough rest?", _BREAD),
    ("Why is the lid taken off?", _BREAD),
    ("How much sugar is needed?", _BREAD),
    ("Which way does the tail of a comet point?", _COMET),
    ("Who discovered the first comet?", _COMET),
)


class _Item(msgspec.Struct):
    question: str


class _Paragraph(msgspec.Struct):
    context: str
    qas: list[_Item]


class _Article(msgspec.Struct):
    paragraphs: list[_Paragraph]


class _Squad(msgspec.Struct):
    data: list[_Article]


def encode_question(question: str, context: str) -> tuple[str, bytes]:
    """Return content type and payload of a question about a text."""
    return QUESTION, msgspec.json.encode({"question": question, "context": context})


def sample_questions() -> list[tuple[str, bytes]]:
    """Return the pairs that ship."""
    return [encode_question(*sample) for sample in SAMPLES]


def squad_questions(path: Path) -> list[tuple[str, bytes]]:
    """Return the first questions of a file in the format of SQuAD 2.0 (`data`, `paragraphs`, `qas`).

    Raises:
        ConfigurationError: It cannot be read, is too large, of another format, or holds no question.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigurationError(f"{path} is larger than {MAX_FILE_BYTES // 10**6} MB")
        parsed = msgspec.json.decode(path.read_bytes(), type=_Squad)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is not in the format of SQuAD 2.0: {error}") from error
    questions = [
        encode_question(item.question.strip(), paragraph.context)
        for article in parsed.data
        for paragraph in article.paragraphs
        for item in paragraph.qas
    ]
    if not questions:
        raise ConfigurationError(f"{path} holds no question")
    return questions[:MAX_QUESTIONS]
