"""Writes docs/asyncapi.json from the message structs and the registry of keys: AsyncAPI 3 with JSON Schema.

    python -m clover.bus.asyncapi > docs/asyncapi.json

Every stream is a channel; every role that may write to it sends and every role that may read from it receives. The
schemas are those of the structs themselves. A test compares the committed document with the generated one.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from clover import __version__
from clover.bus.envelope import MAX_ID_LENGTH, MAX_PAYLOAD_BYTES, MAX_TRACE_LENGTH, VERSION
from clover.bus.keys import REGISTRY, KeySpec
from clover.bus.messages import MESSAGE_TYPES, Message, Reply, Request
from clover.bus.roles import Role

#: Messages of each stream, by the pattern of its key.
_CARRIED: dict[str, tuple[str, ...]] = {
    "{d}:req": ("request",),
    "{d}:req:hi": ("request",),
    "{d}:rep:<producer>": ("reply",),
    "{d}:log": ("requests", "log"),
    "{d}:tel": ("telemetry",),
    "{d}:carbon": ("intensity", "ledger"),
    "{d}:evt": ("event",),
    "{d}:req:t<tier>": ("request",),
    "{d}:target:<node>": ("target",),
}
_READS, _WRITES = {"xread", "xreadgroup"}, {"xadd"}
_SCHEMAS = "#/components/schemas/{name}"

#: Raw fields of an entry besides `v`, `t` and `d`, by type.
_FIELDS: dict[str, dict[str, Any]] = {
    "request": {
        "id": {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
        "due": {"type": "string", "description": "due_ms as a decimal number"},
        "dl": {"type": "string", "description": "deadline_ms as a decimal number"},
        "rt": {"type": "string", "description": "reply_to"},
        "prio": {"type": "string", "enum": ["normal", "high"]},
        "acc": {"type": "string", "description": "min_accuracy as a decimal number, empty if any will do"},
        "tp": {"type": "string", "maxLength": MAX_TRACE_LENGTH, "description": "W3C traceparent"},
        "p": {"type": "string", "format": "binary", "description": f"payload, at most {MAX_PAYLOAD_BYTES} bytes"},
    },
    "reply": {
        "id": {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
        "p": {"type": "string", "format": "binary", "description": f"payload, at most {MAX_PAYLOAD_BYTES} bytes"},
    },
    "target": {"epoch": {"type": "string", "description": "overrides the one in the payload"}},
}
#: Fields of the struct that stand in raw fields, so not in the header `d`.
_RAW_MEMBERS: dict[type[Message], tuple[str, ...]] = {
    Request: ("id", "due_ms", "deadline_ms", "reply_to", "priority", "min_accuracy", "traceparent", "payload"),
    Reply: ("id", "payload"),
}


def json_schemas() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of every message and of what it is made of, by name of the struct.

    For requests and replies this is the header `d`; what stands in raw fields is described by the message.
    """
    _, components = msgspec.json.schema_components(tuple(MESSAGE_TYPES.values()), ref_template=_SCHEMAS)
    for cls, members in _RAW_MEMBERS.items():
        schema = components[cls.__name__]
        schema["properties"] = {name: one for name, one in schema["properties"].items() if name not in members}
        schema["required"] = [name for name in schema.get("required", []) if name not in members]
    return dict(sorted(components.items()))


def asyncapi_document() -> dict[str, Any]:
    """Return the AsyncAPI 3.0.0 document of a deployment's streams."""
    streams = {spec.pattern: spec for spec in REGISTRY if spec.pattern in _CARRIED}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Clover",
            "version": __version__,
            "description": f"Streams of one deployment on Redis or Valkey, envelope version {VERSION}. "
            "docs/wire.md has all keys; {deployment} stands for the deployment's name.",
        },
        "defaultContentType": "application/json",
        "channels": {_channel(pattern): _described(spec) for pattern, spec in streams.items()},
        "operations": {
            f"{role}.{action}.{_channel(pattern)}": _operation(action, pattern)
            for pattern, spec in streams.items()
            for role in spec.commands
            for action in _actions(spec, role)
        },
        "components": {
            "messages": {name: _message(name, cls) for name, cls in MESSAGE_TYPES.items()},
            "schemas": json_schemas(),
        },
    }


def _channel(pattern: str) -> str:
    return pattern.removeprefix("{d}:").replace(":", "-").replace("<", "").replace(">", "")


def _described(spec: KeySpec) -> dict[str, Any]:
    address = spec.pattern.replace("{d}", "{{deployment}}").replace("<", "{").replace(">", "}")
    names = [part.split("}")[0].lstrip("{") for part in address.split("{")[1:] if part.split("}")[0].strip("{")]
    return {
        "address": address,
        "description": f"{spec.what}. Bound: {spec.bound}. Kept: {spec.ttl or 'until trimmed or deleted'}.",
        "parameters": {name: {"description": f"name of the {name}"} for name in names},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _CARRIED[spec.pattern]},
    }


def _actions(spec: KeySpec, role: Role) -> list[str]:
    commands = {command for group in spec.commands[role] for command in group.split()}
    return [action for action, wanted in (("receive", _READS), ("send", _WRITES)) if commands & wanted]


def _operation(action: str, pattern: str) -> dict[str, Any]:
    channel = f"#/channels/{_channel(pattern)}"
    messages = [{"$ref": f"{channel}/messages/{name}"} for name in _CARRIED[pattern]]
    return {"action": action, "channel": {"$ref": channel}, "messages": messages}


def _message(name: str, cls: type[Message]) -> dict[str, Any]:
    fields = {"v": {"const": VERSION}, "t": {"const": name}, **_FIELDS.get(name, {})}
    return {
        "name": name,
        "title": cls.__name__,
        "summary": (cls.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip(),
        "contentType": "application/json",
        "headers": {"type": "object", "properties": fields, "required": list(fields)},
        "payload": {"$ref": _SCHEMAS.format(name=cls.__name__)},
    }


def asyncapi_json() -> str:
    """Return the text of docs/asyncapi.json."""
    return msgspec.json.format(msgspec.json.encode(asyncapi_document()), indent=2).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(asyncapi_json())
