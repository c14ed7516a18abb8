"""ALBERT v2 answering questions about a text as in SQuAD 2.0, where "no answer" is an answer; workers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch.nn.utils.rnn import pad_sequence
from transformers import AlbertConfig, AlbertForQuestionAnswering, AutoTokenizer

from clover.serving.families.devices import device
from clover.serving.families.pictures import convert_options
from clover.serving.families.pretrained import network, source
from clover.serving.port import InvalidInputError, ServingError
from clover.serving.recipe import Recipe

#: So many tokens of the limit are left for the text, whatever the length of the question.
_TEXT_TOKENS: Final = 128

#: Token 0 ([CLS]) stands for "no answer".
_NO_ANSWER: Final = 0


class _Options(msgspec.Struct, forbid_unknown_fields=True):
    config: dict[str, Any] = {}
    max_tokens: int = 512
    max_answer_tokens: int = 30
    # A span must beat "no answer" by this much (sum of logits).
    no_answer_margin: float = 0.0


class _Question(msgspec.Struct):
    question: str
    context: str


_DECODER: Final = msgspec.json.Decoder(_Question)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A tokenized question: `first` to `last` are the tokens of the text, `offsets` their places in it."""

    context: str
    inputs: dict[str, torch.Tensor]
    offsets: list[tuple[int, int]]
    first: int
    last: int
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """Scores of each token as the begin and as the end of the answer."""

    prepared: Prepared
    begin: NDArray[np.float32]
    end: NDArray[np.float32]


class QuestionAnswerer:
    """A loaded variant: JSON with `question` and `context` in, the span of the text that answers it out."""

    def __init__(
        self, recipe: Recipe, model: AlbertForQuestionAnswering, tokenizer: Tokenizer, options: _Options
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._tokenizer = tokenizer
        self._options = options
        self._device = device()

    def prepare(self, content_type: str, payload: bytes) -> Prepared:
        """Tokenize (the host's part); a text that does not fit is cut, and the answer says so."""
        asked = _decode(content_type, payload)
        question = self._tokenizer.encode(asked.question)
        room = self._options.max_tokens - len(question.ids) - 1
        if room < _TEXT_TOKENS:
            most = self._options.max_tokens - _TEXT_TOKENS
            raise InvalidInputError(f"the question has {len(question.ids)} tokens, expected at most {most}")
        pair = self._tokenizer.encode(asked.question, asked.context)
        excess = len(pair.ids) - self._options.max_tokens
        if excess > 0:
            pair = self._shortened(asked, excess)
        first, last = _text_tokens(pair)
        return Prepared(
            context=asked.context,
            inputs={
                "input_ids": torch.tensor([pair.ids]),
                "token_type_ids": torch.tensor([pair.type_ids]),
                "attention_mask": torch.tensor([pair.attention_mask]),
            },
            offsets=pair.offsets,
            first=first,
            last=last,
            truncated=excess > 0,
        )

    def infer(self, prepared: Prepared) -> Logits:
        """Score every token (the instance's part)."""
        with torch.inference_mode():
            out = self._model(**{name: tensor.to(self._device) for name, tensor in prepared.inputs.items()})
        begin, end = (logits[0].float().cpu().numpy() for logits in (out.start_logits, out.end_logits))
        return Logits(prepared=prepared, begin=begin, end=end)

    def infer_batch(self, prepared: Sequence[Prepared]) -> list[Logits]:
        """Score several questions at once, padded to the longest; what pads is masked and scores nothing."""
        names = prepared[0].inputs
        inputs = {name: pad_sequence([one.inputs[name][0] for one in prepared], batch_first=True) for name in names}
        with torch.inference_mode():
            out = self._model(**{name: tensor.to(self._device) for name, tensor in inputs.items()})
        begin, end = (logits.float().cpu().numpy() for logits in (out.start_logits, out.end_logits))
        lengths = [len(one.offsets) for one in prepared]
        return [
            Logits(prepared=one, begin=begin[row, :length], end=end[row, :length])
            for row, (one, length) in enumerate(zip(prepared, lengths, strict=True))
        ]

    def render(self, logits: Logits) -> tuple[str, bytes]:
        """Return the best span, or the empty answer if "no answer" beats it."""
        prepared = logits.prepared
        begin, end, score = best_span(logits, self._options.max_answer_tokens)
        no_answer = float(logits.begin[_NO_ANSWER] + logits.end[_NO_ANSWER])
        answerable = score > no_answer + self._options.no_answer_margin
        place = (prepared.offsets[begin][0], prepared.offsets[end][1]) if answerable else (0, 0)
        text = prepared.context[slice(*place)]
        # Byte-level tokens hold the space before a word.
        place = (place[0] + len(text) - len(text.lstrip()), place[0] + len(text.rstrip()))
        return self._recipe.render(
            {
                "answer": text.strip(),
                "answerable": bool(answerable),
                "start": place[0],
                "end": max(place),
                "probability": round(1.0 / (1.0 + float(np.exp(np.clip(no_answer - score, -50.0, 50.0)))), 6),
                "score": round(score, 4),
                "no_answer_score": round(no_answer, 4),
                "tokens": len(prepared.offsets),
                "truncated": prepared.truncated,
            }
        )

    def warm_up(self) -> None:
        """Answer once."""
        self.infer(self.prepare("application/json", b'{"question": "Who waits?", "context": "Nobody waits for long."}'))

    def _shortened(self, asked: _Question, excess: int) -> Encoding:
        """Encode again with the end of the text cut off, never the question."""
        text = self._tokenizer.encode(asked.context, add_special_tokens=False)
        keep = len(text.ids) - excess
        while True:
            pair = self._tokenizer.encode(asked.question, asked.context[: text.offsets[keep - 1][1]])
            over = len(pair.ids) - self._options.max_tokens
            if over <= 0:
                return pair
            # Tokens at a cut may differ from those of the whole.
            keep -= over


def best_span(logits: Logits, max_tokens: int) -> tuple[int, int, float]:
    """Return begin and end (token indices, inclusive) and the score of the best span within the text."""
    first, last = logits.prepared.first, logits.prepared.last
    begin, end = logits.begin[first : last + 1], logits.end[first : last + 1]
    sums = begin[:, None] + end[None, :]
    length = np.arange(len(end))[None, :] - np.arange(len(begin))[:, None]
    sums = np.where((length >= 0) & (length < max_tokens), sums, -np.inf)
    row, column = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return first + int(row), first + int(column), float(sums[row, column])


def load(recipe: Recipe) -> QuestionAnswerer:
    """Load a variant.

    Raises:
        ServingError: Its options are wrong, or weights or tokenizer are missing or damaged.
    """
    try:
        options: _Options = convert_options(recipe.options, _Options, f"{recipe.application}/{recipe.variant}")
    except ValueError as exc:
        raise ServingError(str(exc)) from exc
    model = network(recipe, AlbertForQuestionAnswering, AlbertConfig(**options.config))
    return QuestionAnswerer(recipe, model, _tokenizer(recipe), options)  # pyright: ignore[reportArgumentType]


def _tokenizer(recipe: Recipe) -> Tokenizer:
    if recipe.is_random:
        file = resources.files("clover").joinpath("data", "tokenizers", "english.json")
        return Tokenizer.from_str(file.read_text(encoding="utf-8"))
    place = source(recipe)
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(place, use_fast=True).backend_tokenizer
    except (OSError, ValueError, AttributeError) as exc:
        raise ServingError(f"the tokenizer of {recipe.variant} cannot be loaded from {place}: {exc}") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _decode(content_type: str, payload: bytes) -> _Question:
    if not content_type.startswith("application/json"):
        raise InvalidInputError(f"JSON with question and context was expected, the content type is {content_type!r}")
    try:
        asked = _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidInputError(f"JSON with question and context was expected: {exc}") from exc
    for field in ("question", "context"):
        if not getattr(asked, field).strip():
            raise InvalidInputError(f"the {field} is empty")
    return asked


def _text_tokens(pair: Encoding) -> tuple[int, int]:
    """Return the first and last token of the second sequence."""
    tokens = [index for index, sequence in enumerate(pair.sequence_ids) if sequence == 1]
    if not tokens:
        raise InvalidInputError("the context holds no text")
    return tokens[0], tokens[-1]
