"""Where a server is and how to get in: one URL and the environment, checked; nothing here talks to anything.

    redis://[user[:password]@]host[:port][/db]          one server; rediss:// with TLS
    unix:///path/to/socket[?db=1]                       one server on this host
    redis+sentinel://host[:port],.../service[/db]       the primary that sentinels name; rediss+sentinel:// with TLS

TLS takes `ca`, `cert` and `key` (PEM files) from the URL's query, else from CLOVER_REDIS_CA, _CERT and _KEY; with cert
and key it is mutual. User and password come from the URL, else from CLOVER_REDIS_USERNAME and CLOVER_REDIS_PASSWORD,
or from the file that `password_file` or CLOVER_REDIS_PASSWORD_FILE names. The sentinels themselves, if they ask for a
password, get CLOVER_SENTINEL_PASSWORD (or _FILE).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from clover.errors import ConfigurationError

PORT = 6379
SENTINEL_PORT = 26379

_HINT = (
    "Use redis://host:port, rediss://host:port (TLS), unix:///path/to/socket or redis+sentinel://host:port,.../service."
)
_TLS_FILES = ("ca", "cert", "key")
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_PARAMETERS = {
    "redis": ("db", "password_file"),
    "rediss": ("db", "password_file", "ca", "cert", "key"),
    "unix": ("db", "password_file"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files: `ca` to trust (empty: the system's), `cert` and `key` to show (empty: none)."""

    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One place to connect to, or the sentinels that know it.

    Attributes:
        hosts: Host and port of the server, or of each sentinel; empty for a socket.
        path: Of the socket; empty if there is none.
        service: What the sentinels call the primary; empty without sentinels.
        db: Number of the database.
        username, password: Of the user on the server; empty: the default one.
        sentinel_password: Of the sentinels.
        tls: How to encrypt; None: not at all.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_password: str = field(default="", repr=False)
    tls: Tls | None = None

    def __str__(self) -> str:
        """Return where it is, without anything secret."""
        if self.path:
            return f"unix://{self.path}"
        scheme = "rediss" if self.tls else "redis"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{scheme}+sentinel://{hosts}/{self.service}" if self.service else f"{scheme}://{hosts}"


def parse_address(url: str, environment: Mapping[str, str]) -> Address:
    """Read a URL, with what it leaves open taken from the environment.

    Raises:
        ConfigurationError: Something cannot be used; the message names it and holds no secret.
    """
    try:
        return _parsed(url, environment)
    except ValueError as error:
        raise ConfigurationError(f"server URL {without_password(url)!r}: {error}", hint=_HINT) from error


def without_password(url: str) -> str:
    """Return a URL as it may be shown: what stands before the last @ is left out."""
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://***@{tail}" if at else url


def has_password(url: str) -> bool:
    """Return whether a URL holds a password, which an argument of a process should not."""
    head, at, _ = url.rpartition("@")
    return bool(at) and ":" in head.partition("://")[2]


def _parsed(url: str, environment: Mapping[str, str]) -> Address:
    scheme, separator, rest = url.partition("://")
    if scheme not in _SCHEMES or not separator:
        raise ValueError(f"expected one of {', '.join(f'{one}://' for one in _SCHEMES)}")
    basic, _, sentinel = scheme.partition("+")
    # Several hosts are not part of any URL syntax: only what surrounds them is left to the standard library.
    parts = urlsplit(f"{basic}://{rest}")
    login, at, hosts_text = parts.netloc.rpartition("@")
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("expected user and password percent-encoded")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := set(query) - set(_PARAMETERS[basic]):
        raise ValueError(f"parameter {min(unknown)!r}: expected one of {', '.join(_PARAMETERS[basic])}")
    username, _, password = login.partition(":") if at else ("", "", "")
    path, service, db = _path(parts.path, basic, is_sentinel=bool(sentinel))
    hosts = () if basic == "unix" else _hosts(hosts_text, SENTINEL_PORT if sentinel else PORT)
    return Address(
        hosts=hosts,
        path=path,
        service=service,
        db=_number("db", query.get("db", db or "0")),
        username=unquote(username) or environment.get("CLOVER_REDIS_USERNAME", ""),
        password=unquote(password) or _password(query.get("password_file", ""), environment, "CLOVER_REDIS_PASSWORD"),
        sentinel_password=_password("", environment, "CLOVER_SENTINEL_PASSWORD") if sentinel else "",
        tls=_tls(query, environment) if basic == "rediss" else None,
    )


def _path(text: str, scheme: str, *, is_sentinel: bool) -> tuple[str, str, str]:
    """Return socket, service and database of a URL's path."""
    if scheme == "unix":
        if not text.strip("/"):
            raise ValueError("expected the path of a socket")
        return unquote(text), "", ""
    pieces = [unquote(piece) for piece in text.strip("/").split("/")] if text.strip("/") else []
    if is_sentinel:
        if not pieces:
            raise ValueError("expected the name of the service behind the hosts")
        return "", pieces[0], "/".join(pieces[1:])
    return "", "", "/".join(pieces)


def _hosts(text: str, port: int) -> tuple[tuple[str, int], ...]:
    hosts: list[tuple[str, int]] = []
    for piece in text.split(","):
        one = urlsplit(f"//{piece}")
        try:
            number = one.port
        except ValueError:
            number = 0
        if not one.hostname or number == 0:
            raise ValueError("expected a host and a port from 1 to 65535")
        hosts.append((one.hostname, number or port))
    return tuple(hosts)


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        raise ValueError(f"{name} {text[:20]!r}: expected a small whole number")
    return int(text)


def _password(file: str, environment: Mapping[str, str], variable: str) -> str:
    path = file or environment.get(f"{variable}_FILE", "")
    if environment.get(variable) and not file:
        return environment[variable]
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"password file {path!r}: {error}") from error


def _tls(query: Mapping[str, str], environment: Mapping[str, str]) -> Tls:
    files = {name: query.get(name) or environment.get(f"CLOVER_REDIS_{name.upper()}", "") for name in _TLS_FILES}
    for name, path in files.items():
        if path and not Path(path).is_file():
            raise ValueError(f"{name} {path!r}: no such file")
    if bool(files["cert"]) != bool(files["key"]):
        raise ValueError("cert and key: expected both or neither")
    return Tls(**files)
