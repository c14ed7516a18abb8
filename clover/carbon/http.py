"""One HTTP GET of JSON as every source needs it: bounded, behind a circuit breaker, with errors that say what is wrong.

Nothing here prints an address with its query or a header: keys travel in both.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx
import msgspec

from clover.carbon.port import AccessDeniedError, BadReplyError, RateLimitedError, SourceUnavailableError
from clover.core.clock import Clock

_T = TypeVar("_T")

#: A whole request, connection and body included.
TIMEOUT_S = 8.0

#: The circuit opens after so many failures in a row, for so long at first and at most; each failed trial doubles it.
BREAKER_FAILURES, BREAKER_FIRST_S, BREAKER_MOST_S = 5, 60.0, 900.0

#: A server may ask for more patience than is good for anybody.
RETRY_AFTER_MOST_S = 3600.0

MAX_BODY_BYTES = 16 << 20

_decode_any = msgspec.json.Decoder().decode


class CircuitBreaker:
    """Stops asking a source that keeps failing; one trial request after each pause decides whether to go on."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._failures = 0
        self._pause_s = BREAKER_FIRST_S
        self._open_until_s = float("-inf")

    def check(self, who: str) -> None:
        """Raise SourceUnavailableError while the circuit is open."""
        left_s = self._open_until_s - self._now_s()
        if left_s > 0.0:
            raise SourceUnavailableError(
                f"{who}: left alone for another {left_s:.0f} s after {self._failures} failures in a row",
                retry_after_s=left_s,
            )

    def succeeded(self) -> None:
        """Close the circuit."""
        self._failures, self._pause_s = 0, BREAKER_FIRST_S

    def failed(self) -> None:
        """Count a failure."""
        self._failures += 1
        if self._failures >= BREAKER_FAILURES:
            self._open_until_s = self._now_s() + self._pause_s
            self._pause_s = min(BREAKER_MOST_S, 2.0 * self._pause_s)


class JsonClient:
    """GETs JSON from one source.

    Args:
        who: Name of the source in messages.
        base_url: Everything before the path.
        clock: Wall time, for dates in Retry-After and for the breaker.
        transport: For tests and proxies; the network by default.
        timeout_s: Of a whole request.
    """

    def __init__(
        self,
        *,
        who: str,
        base_url: str,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        # httpx tells the full address of every request from level INFO up, and keys may stand in it.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._who = who
        self._clock = clock
        self._timeout_s = timeout_s
        self._breaker = CircuitBreaker(clock.now_s)
        self._http = httpx.AsyncClient(
            base_url=base_url,
            transport=transport,
            timeout=timeout_s,
            # Certificates are loaded (in 50 ms) only where they are looked at; redirects are not followed.
            verify=base_url.startswith("https:") and transport is None,
            headers={"Accept": "application/json", "User-Agent": "clover-serve"},
        )

    async def get(
        self,
        path: str,
        expected: type[_T],
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> _T:
        """Return the body as `expected` (a msgspec type).

        Raises:
            SourceError: Of the kind that the failure is.
        """
        self._breaker.check(self._who)
        try:
            async with asyncio.timeout(self._timeout_s):
                status, reply_headers, body = await self._fetch(path, params, headers, auth)
            self._check_status(path, status, reply_headers, body)
            decoded = self._decode(path, body, expected)
        except (SourceUnavailableError, RateLimitedError, BadReplyError):
            self._breaker.failed()
            raise
        except TimeoutError:
            self._breaker.failed()
            raise SourceUnavailableError(f"{self._who} {path}: no complete answer in {self._timeout_s:g} s") from None
        except httpx.HTTPError as error:
            self._breaker.failed()
            raise SourceUnavailableError(f"{self._who} {path}: {_reason(error)}") from None
        self._breaker.succeeded()
        return decoded

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _fetch(
        self,
        path: str,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        auth: tuple[str, str] | None,
    ) -> tuple[int, httpx.Headers, bytes]:
        basic = httpx.BasicAuth(*auth) if auth else None
        async with self._http.stream("GET", path, params=params, headers=headers, auth=basic) as reply:
            body = b""
            async for piece in reply.aiter_bytes():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise BadReplyError(f"{self._who} {path}: more than {MAX_BODY_BYTES} bytes")
            return reply.status_code, reply.headers, body

    def _check_status(self, path: str, status: int, headers: httpx.Headers, body: bytes) -> None:
        where = f"{self._who} {path}: HTTP {status}"
        if status in {401, 403}:
            raise AccessDeniedError(f"{where}{_told(body)}", hint="check the key, and that it may see this zone")
        if status == 429:
            raise RateLimitedError(f"{where}, too many requests", retry_after_s=self._retry_after_s(headers))
        if status >= 500:
            raise SourceUnavailableError(f"{where}{_told(body)}", retry_after_s=self._retry_after_s(headers))
        if status != 200:
            raise BadReplyError(f"{where}{_told(body)}, expected 200")

    def _retry_after_s(self, headers: httpx.Headers) -> float | None:
        """Read Retry-After: seconds, or a date (RFC 9110, section 10.2.3)."""
        text = headers.get("Retry-After", "").strip()
        try:
            seconds = float(text) if text.isdigit() else email.utils.parsedate_to_datetime(text).timestamp()
        except (ValueError, OverflowError):
            return None
        wait_s = seconds if text.isdigit() else seconds - self._clock.now_s()
        return min(RETRY_AFTER_MOST_S, max(0.0, wait_s))

    def _decode(self, path: str, body: bytes, expected: type[_T]) -> _T:
        try:
            return msgspec.convert(_decode_any(body), expected, strict=False)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            begin = body[:60].decode(errors="replace").replace("\n", " ")
            raise BadReplyError(f"{self._who} {path}: {error}; the body begins with {begin!r}") from None


def _told(body: bytes) -> str:
    """Return what a server says of its error where that is short JSON; empty otherwise."""
    try:
        told = _decode_any(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    if not isinstance(told, dict):
        return ""
    error = told.get("error", told.get("message", ""))
    text = error.get("message", error.get("code", "")) if isinstance(error, dict) else error
    return f" ({str(text)[:120]})" if text else ""


def _reason(error: httpx.HTTPError) -> str:
    # The text of an httpx error may contain the address; its kind says enough.
    kinds: dict[type[Exception], str] = {
        httpx.ConnectError: "connection refused or host unknown",
        httpx.RemoteProtocolError: "the answer was cut off",
        httpx.ReadError: "the connection broke",
    }
    return kinds.get(type(error), type(error).__name__)
