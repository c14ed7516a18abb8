"""Key names, their registry, and the document generated from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clover.bus import scripts
from clover.bus.key_names import Keys
from clover.bus.keys import REGISTRY, spec_of
from clover.bus.values import Feed
from clover.bus.wire import wire_markdown
from clover.errors import ConfigurationError, MessageRejectedError

ROOT = Path(__file__).parents[2]


def all_names(keys: Keys) -> list[str]:
    fixed = [keys.requests, keys.requests_high, keys.open, keys.dead, keys.nodes, keys.now, keys.ledger, keys.live]
    fixed += [keys.lease, keys.epoch, keys.plan, keys.override, *(keys.feed(feed) for feed in Feed)]
    return [
        *fixed,
        keys.replies("p1"),
        keys.idempotency("r1"),
        keys.state("n1"),
        keys.target("n1"),
        keys.tier(2),
        keys.name("n1"),
    ]


def test_every_key_name_is_in_the_registry_exactly_once():
    names = all_names(Keys("clover"))
    specs = [spec_of(name) for name in names]
    assert set(specs) == set(REGISTRY)
    assert len(names) == len(REGISTRY)


def test_all_keys_share_the_hash_tag():
    assert all(name.startswith("{my-run-7}:") for name in all_names(Keys("my-run-7")))


def test_foreign_keys_are_in_no_registry():
    for key in ("clover:req", "{clover}:other", "{clover}:rep:", "{Clover}:req", "{clover}:reqx"):
        assert spec_of(key) is None


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a}", "{a", "a" * 42, "a_b", "a\n"])
def test_deployment_names_are_checked(name: str):
    with pytest.raises(ConfigurationError):
        Keys(name)


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a" * 41])
def test_usable_deployment_names(name: str):
    assert Keys(name).requests == f"{{{name}}}:req"


@pytest.mark.parametrize("name", ["", " ", "a b", "a}", ":a", "a\n", "ü", "a" * 129])
def test_names_within_keys_are_checked(name: str):
    keys = Keys("clover")
    for make in (keys.replies, keys.state, keys.target):
        with pytest.raises(MessageRejectedError):
            make(name)


def test_the_committed_wire_document_is_the_generated_one():
    assert (ROOT / "docs" / "wire.md").read_text(encoding="utf-8") == wire_markdown()


def test_every_script_file_is_loaded():
    files = {path.stem for path in (ROOT / "clover" / "bus" / "lua").glob("*.lua")} - {"prelude"}
    loaded = {value.name for value in vars(scripts).values() if isinstance(value, scripts.Script)}
    assert loaded == files
