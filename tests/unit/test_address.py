"""URLs of servers, what the environment adds, and that no secret shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from clover.bus.address import Address, Tls, has_password, parse_address, without_password
from clover.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", Address(hosts=(("h", 6379),))),
        ("redis://h:1/3", Address(hosts=(("h", 1),), db=3)),
        ("redis://h?db=4", Address(hosts=(("h", 6379),), db=4)),
        ("redis://[::1]:7", Address(hosts=(("::1", 7),))),
        ("redis://u:p%40%2Fw@h", Address(hosts=(("h", 6379),), username="u", password="p@/w")),
        ("redis://:pw@h", Address(hosts=(("h", 6379),), password="pw")),
        ("rediss://h", Address(hosts=(("h", 6379),), tls=Tls())),
        ("unix:///run/r.sock?db=2", Address(path="/run/r.sock", db=2)),
        ("redis+sentinel://a,b:1/main", Address(hosts=(("a", 26379), ("b", 1)), service="main")),
        ("rediss+sentinel://a/main/5", Address(hosts=(("a", 26379),), service="main", db=5, tls=Tls())),
    ],
)
def test_urls(url: str, expected: Address):
    assert parse_address(url, {}) == expected


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("", "redis://"),
        ("h:6379", "redis://"),
        ("http://h", "redis://"),
        ("redis://", "host"),
        ("redis://h:port", "port"),
        ("redis://h:99999", "port"),
        ("redis://h:0", "port"),
        ("redis://h/db", "db 'db'"),
        ("redis://h?colour=1", "'colour'"),
        ("redis://h?ca=/x", "'ca'"),
        ("unix://", "socket"),
        ("redis+sentinel://a,b", "service"),
        ("redis+sentinel://a,/main", "host"),
        ("rediss://h?ca=/does/not/exist", "no such file"),
        ("redis://h?password_file=/does/not/exist", "password file"),
    ],
)
def test_what_cannot_be_used_is_named(url: str, named: str):
    with pytest.raises(ConfigurationError) as caught:
        parse_address(url, {})
    assert named in str(caught.value)
    assert caught.value.hint


def test_a_certificate_needs_its_key(tmp_path: Path):
    (tmp_path / "c").write_text("")
    with pytest.raises(ConfigurationError, match="both or neither"):
        parse_address(f"rediss://h?cert={tmp_path}/c", {})


def test_the_environment_fills_what_the_url_leaves_open(tmp_path: Path):
    (tmp_path / "secret").write_text("from-file\n")
    (tmp_path / "ca").write_text("")
    environment = {"CLOVER_REDIS_USERNAME": "u", "CLOVER_REDIS_PASSWORD": "pw", "CLOVER_REDIS_CA": f"{tmp_path}/ca"}
    address = parse_address("rediss://h", environment)
    assert (address.username, address.password, address.tls) == ("u", "pw", Tls(ca=f"{tmp_path}/ca"))
    address = parse_address("redis://other:own@h", environment)
    assert (address.username, address.password) == ("other", "own")
    by_file = {"CLOVER_REDIS_PASSWORD_FILE": f"{tmp_path}/secret", "CLOVER_SENTINEL_PASSWORD": "s"}
    assert parse_address("redis://h", by_file).password == "from-file"
    assert parse_address(f"redis://h?password_file={tmp_path}/secret", environment).password == "from-file"
    address = parse_address("redis+sentinel://h/main", by_file)
    assert (address.password, address.sentinel_password) == ("from-file", "s")


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://u:{SECRET}@h:port",
        f"redis://:{SECRET}/{SECRET}@h",
        f"redis://:{SECRET}?{SECRET}@h",
        f"redis://:{SECRET}#{SECRET}@h",
        f"http://u:{SECRET}@h",
        f"redis+sentinel://u:{SECRET}@a,b",
    ],
)
def test_no_error_shows_a_secret(url: str):
    with pytest.raises(ConfigurationError) as caught:
        parse_address(url, {})
    assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_nothing_that_is_shown_holds_a_secret():
    for url in (f"redis://u:{SECRET}@h:1", f"redis+sentinel://u:{SECRET}@a,b:2/main", f"rediss://:{SECRET}@h"):
        address = parse_address(url, {"CLOVER_SENTINEL_PASSWORD": SECRET})
        assert SECRET not in f"{address} {address!r} {without_password(url)}"
        assert address.password == SECRET


def test_a_password_in_a_url_is_noticed():
    assert has_password("redis://:p@h")
    assert has_password("redis+sentinel://u:p@a,b/main")
    assert not has_password("redis://u@h")
    assert not has_password("redis://h:6379")
