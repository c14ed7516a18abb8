"""Inputs that a request only refers to: a `text/uri-list` (RFC 2483) of one path or URL, fetched by the worker.

A request that could make a worker read any file would be a hole. So nothing is fetched unless the node was told below
which folders or URL prefixes inputs may lie.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from clover.serving.port import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Content type of a reference.
REFERENCE: Final = "text/uri-list"

#: Largest input that is fetched, bytes.
MAX_FETCHED_BYTES: Final = 256 * 2**20


class Fetcher:
    """Turns references into inputs.

    Args:
        roots: Folders (absolute paths) and URL prefixes below which inputs may lie.
        max_bytes: Largest input.
    """

    def __init__(self, roots: Sequence[str], *, max_bytes: int = MAX_FETCHED_BYTES) -> None:
        self._folders = [Path(root).resolve() for root in roots if "://" not in root]
        self._prefixes = [root.rstrip("/") + "/" for root in roots if "://" in root]
        self._max_bytes = max_bytes

    def resolve(self, content_type: str, payload: bytes) -> tuple[str, bytes]:
        """Return content type and bytes of an input, fetched if the request refers to it.

        Raises:
            InvalidInputError: The reference is malformed, not allowed, cannot be read or leads to too much.
        """
        if content_type != REFERENCE:
            return content_type, payload
        reference = _single(payload)
        path = self._local(reference)
        content = self._read_file(path) if path else self._read_url(reference)
        if len(content) > self._max_bytes:
            raise InvalidInputError(f"{reference} has more than {self._max_bytes // 2**20} MiB")
        return mimetypes.guess_type(reference)[0] or "application/octet-stream", content

    def _local(self, reference: str) -> Path | None:
        """Return the path that a reference names, None for a URL; refuse what lies outside of every root."""
        parts = urlsplit(reference)
        if parts.scheme not in {"", "file"}:
            # Dots in a URL may lead out of a prefix.
            if any(reference.startswith(prefix) for prefix in self._prefixes) and ".." not in unquote(reference):
                return None
            raise self._refused(reference)
        path = Path(unquote(parts.path) if parts.scheme else reference).resolve()
        if not any(path.is_relative_to(folder) for folder in self._folders):
            raise self._refused(reference)
        return path

    def _refused(self, reference: str) -> InvalidInputError:
        allowed = ", ".join([*map(str, self._folders), *self._prefixes]) or "nothing"
        return InvalidInputError(f"{reference} may not be read here: inputs may lie below {allowed} (--input-root)")

    def _read_file(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(self._max_bytes + 1)
        except OSError as exc:
            raise InvalidInputError(f"{path} cannot be read: {exc.strerror or exc}") from exc

    def _read_url(self, url: str) -> bytes:
        # Late: only nodes that read from an object store need it.
        import fsspec  # noqa: PLC0415

        try:
            opened: Any = fsspec.open(url, "rb")
            with opened as file:
                return file.read(self._max_bytes + 1)
        except Exception as exc:
            # Every store has errors of its own, a missing plug-in is an ImportError.
            raise InvalidInputError(f"{url} cannot be read: {exc}") from exc


def _single(payload: bytes) -> str:
    """Return the one reference of a list; lines that begin with # are comments."""
    try:
        lines = payload.decode("utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise InvalidInputError(f"a {REFERENCE} must be UTF-8 text") from exc
    references = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if len(references) != 1:
        raise InvalidInputError(f"a {REFERENCE} of one reference was expected, got {len(references)}")
    return references[0]
