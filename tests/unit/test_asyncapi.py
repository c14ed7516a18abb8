"""The AsyncAPI document: generated, committed, whole, and true of what the codec writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support import a_checkpoint, a_plan, a_reply, a_request, a_target, an_event, intensity, ledger, telemetry

from clover.bus import codec
from clover.bus.asyncapi import asyncapi_document, asyncapi_json, json_schemas
from clover.bus.keys import REGISTRY
from clover.bus.messages import (
    MESSAGE_TYPES,
    ForecastInterval,
    GpuTarget,
    IntensityForecast,
    LogLine,
    Message,
    Override,
    Pin,
    RequestLog,
)

ROOT = Path(__file__).parents[2]
DOCUMENT = asyncapi_document()

EXAMPLES: dict[str, Message] = {
    "request": a_request("r1", min_accuracy=80.0, traceparent="00-1-2-01"),
    "reply": a_reply("r1", accuracy_pct=80.5, energy_j=1.0),
    "requests": RequestLog(producer="p", sent=1, duplicates=0, records=()),
    "log": LogLine(at_ms=1.0, level="warning", source="s", text="t"),
    "telemetry": telemetry(),
    "intensity": intensity(),
    "forecast": IntensityForecast(
        basis="published",
        source="neso",
        zone="GB",
        published_at_ms=1.0,
        step_ms=1_800_000.0,
        intervals=(ForecastInterval(from_ms=2.0, g_per_kwh=200.0, low_g_per_kwh=180.0, high_g_per_kwh=230.0),),
        issued_at_ms=0.5,
    ),
    "ledger": ledger(),
    "checkpoint": a_checkpoint(),
    "target": a_target(),
    "plan": a_plan(),
    "override": Override(
        at_ms=1.0,
        by="somebody",
        paused=True,
        pins=(Pin(node="n1", gpu=GpuTarget(index=0, mode="parked"), until_ms=2.0),),
    ),
    "event": an_event(),
}


def test_the_committed_document_is_the_generated_one() -> None:
    assert (ROOT / "docs" / "asyncapi.json").read_text(encoding="utf-8") == asyncapi_json()


def resolved(reference: str) -> Any:
    node: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [one for value in node.values() for one in references(value)]
    return [one for value in node for one in references(value)] if isinstance(node, list) else []


def test_every_reference_leads_somewhere() -> None:
    found = references(DOCUMENT)
    assert len(found) > 50
    assert all(resolved(one) for one in found)


def test_every_stream_of_messages_is_a_channel_and_every_message_is_there() -> None:
    streams = [spec.pattern for spec in REGISTRY if spec.kind == "stream" and spec.pattern != "{d}:dead"]
    assert len(DOCUMENT["channels"]) == len(streams)
    assert set(DOCUMENT["components"]["messages"]) == set(MESSAGE_TYPES)
    assert DOCUMENT["channels"]["target-node"]["parameters"].keys() == {"deployment", "node"}
    operations = DOCUMENT["operations"]
    assert operations["generator.send.req"]["action"] == "send"
    assert "node.receive.req" in operations
    assert not [name for name in operations if name.startswith("dashboard.send")]


def problems(value: Any, schema: dict[str, Any], path: str = "d") -> list[str]:
    """Say what of a JSON value a schema does not allow; for the keywords that our schemas use."""
    if "$ref" in schema:
        return problems(value, resolved(schema["$ref"]), path)
    if "anyOf" in schema:
        tries = [problems(value, one, path) for one in schema["anyOf"]]
        return [] if [] in tries else min(tries, key=len)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{path}: {value!r}"]
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "number": (int, float),
        "integer": int,
        "null": type(None),
        "boolean": bool,
    }
    wanted = schema.get("type")
    if wanted and not isinstance(value, kinds[wanted]):
        return [f"{path}: {value!r} is no {wanted}"]
    found: list[str] = []
    if isinstance(value, dict):
        known = schema.get("properties", {})
        found += [f"{path}.{name}: missing" for name in schema.get("required", []) if name not in value]
        extra = schema.get("additionalProperties")
        for name, item in value.items():
            if name not in known and not extra and known:
                found.append(f"{path}.{name}: unknown")
            elif isinstance(one := known.get(name, extra), dict):
                found += problems(item, one, f"{path}.{name}")
    for index, item in enumerate(value if isinstance(value, list) and isinstance(schema.get("items"), dict) else []):
        found += problems(item, schema["items"], f"{path}[{index}]")
    return found


def header_of(message: Message) -> Any:
    if MESSAGE_TYPES["request"] is type(message):
        return json.loads(codec.encode_request(message)[7])  # type: ignore[arg-type]
    if MESSAGE_TYPES["reply"] is type(message):
        return json.loads(codec.encode_reply(message)[1])  # type: ignore[arg-type]
    return json.loads(codec.encode(message)[1])


def test_what_the_codec_writes_follows_the_schemas() -> None:
    assert set(EXAMPLES) == set(MESSAGE_TYPES)
    for name, message in EXAMPLES.items():
        schema = DOCUMENT["components"]["messages"][name]["payload"]
        assert problems(header_of(message), schema) == [], name


def test_what_does_not_follow_them_is_seen() -> None:
    schema = DOCUMENT["components"]["messages"]["reply"]["payload"]
    good = header_of(EXAMPLES["reply"])
    assert problems({**good, "outcome": "maybe"}, schema)
    assert problems({**good, "gpu": "zero"}, schema)
    assert problems({**good, "colour": 1}, schema)
    del good["outcome"]
    assert problems(good, schema) == ["d.outcome: missing"]


def test_raw_fields_of_entries_are_described() -> None:
    for name, entry in (("request", codec.request_entry), ("reply", codec.reply_entry)):
        described = DOCUMENT["components"]["messages"][name]["headers"]["properties"]
        written = [field.decode() for field in entry(EXAMPLES[name])[::2]]  # type: ignore[arg-type, operator]
        assert sorted([*described, "d"]) == sorted(written)
    assert "payload" not in json_schemas()["Request"]["properties"]
