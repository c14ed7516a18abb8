"""What a helper with rights and its clients say to each other: one JSON object a line, one answer to each. Pure.

A request names what to do in `do`; an answer holds either `ok` or `error`. Requests are short and strictly checked,
because who sends them has fewer rights than who reads them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from mig import errors
from mig.device import GpuInstance, Holder
from mig.errors import MigError
from mig.placement import PlacedProfile, Placement
from mig.profiles import GpuModel

MAX_REQUEST_BYTES: Final = 4096
"""Longest request with its line end."""

MAX_ANSWER_BYTES: Final = 1 << 20
"""Longest answer with its line end; the tables of 64 GPUs fit."""

Index: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1023)]
Slices: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=64)]
InstanceId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
ProfileName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]

ValueT = TypeVar("ValueT")


class HelperError(MigError):
    """A helper cannot be reached, or does not do what was asked of it."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do"):
    """Base of all requests."""


class ListGpus(Request, frozen=True, kw_only=True, tag="gpus"):
    """Describe the GPUs that this client may use."""


class OfGpu(Request, frozen=True, kw_only=True):
    """Base of the requests about one GPU, by its number."""

    gpu: Index


class ReadMode(OfGpu, frozen=True, kw_only=True, tag="mode"):
    """Read MIG mode."""


class SetMode(OfGpu, frozen=True, kw_only=True, tag="set_mode"):
    """Switch MIG mode."""

    enabled: bool
    allow_reset: bool = False


class ReadInstances(OfGpu, frozen=True, kw_only=True, tag="instances"):
    """Read all living instances."""


class ReadDevices(OfGpu, frozen=True, kw_only=True, tag="devices"):
    """Read the MIG devices."""


class Create(OfGpu, frozen=True, kw_only=True, tag="create"):
    """Create an instance at a place, in memory slices."""

    profile: ProfileName
    start: Slices
    size: Annotated[int, msgspec.Meta(ge=1, le=64)]


class Destroy(OfGpu, frozen=True, kw_only=True, tag="destroy"):
    """Destroy an instance."""

    instance_id: InstanceId


class ReadHolders(OfGpu, frozen=True, kw_only=True, tag="holders"):
    """Find the processes that use an instance."""

    instance_id: InstanceId


class ReadEnergy(OfGpu, frozen=True, kw_only=True, tag="energy"):
    """Read the energy counter."""


GpuRequest: TypeAlias = ReadMode | SetMode | ReadInstances | ReadDevices | Create | Destroy | ReadHolders | ReadEnergy
AnyRequest: TypeAlias = ListGpus | GpuRequest


class WireInstance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A living instance; its profile by name."""

    id: int
    profile: str
    start: int
    size: int
    uuid: str


class Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An error of `mig.errors`: the name of its class, and what else that class holds."""

    kind: str
    message: str
    hint: str = ""
    code: int | None = None
    privilege: Literal["root", "mig/config"] | None = None
    shortage: errors.Shortage | None = None
    instance_ids: tuple[int, ...] = ()
    holders: tuple[Holder, ...] = ()


class GpuDescription(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What does not change about a GPU; either its table or why there is none."""

    index: int
    uuid: str
    title: str
    notes: tuple[str, ...]
    model: GpuModel | None = None
    model_failure: Failure | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Either a value, whose type follows from the request, or an error."""

    ok: msgspec.Raw = msgspec.Raw(b"null")
    error: Failure | None = None


_REQUESTS: Final = msgspec.json.Decoder(AnyRequest)
_ANSWERS: Final = msgspec.json.Decoder(Answer)


def decode_request(line: bytes) -> AnyRequest:
    """Read a request.

    Raises:
        HelperError: It is none; the message names the field.
    """
    try:
        return _REQUESTS.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HelperError(f"request: {error}") from error


def encode_request(request: AnyRequest) -> bytes:
    """Write a request with its line end."""
    return msgspec.json.encode(request) + b"\n"


def encode_value(value: object) -> bytes:
    """Write an answer that holds a value, with its line end."""
    return msgspec.json.encode({"ok": value}) + b"\n"


def encode_failure(error: MigError) -> bytes:
    """Write an answer that holds an error, with its line end."""
    return msgspec.json.encode({"error": failure_of(error)}) + b"\n"


def decode_answer(line: bytes, kind: type[ValueT]) -> ValueT:
    """Read an answer.

    Raises:
        MigError: The error that it holds, as raised on the other side.
        HelperError: It is no answer of this kind.
    """
    try:
        answer = _ANSWERS.decode(line)
        if answer.error is None:
            return msgspec.json.decode(answer.ok, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HelperError(f"answer of the helper: {error}: expected {kind}", hint=_VERSIONS) from error
    raise error_of(answer.error)


def failure_of(error: MigError) -> Failure:
    """Write an error down; of a class that the other side does not know, the nearest that it knows."""
    known = next(each.__name__ for each in type(error).__mro__ if each.__name__ in _ERRORS)
    fields: dict[str, Any] = {
        name: getattr(error, name)
        for name in ("code", "privilege", "shortage", "instance_ids", "holders")
        if hasattr(error, name)
    }
    return Failure(kind=known, message=str(error), hint=error.hint, **fields)


def error_of(failure: Failure) -> MigError:
    """Make the error again that was written down; of an unknown class, a `HelperError`."""
    kind = _ERRORS.get(failure.kind, HelperError)
    message, hint = failure.message, failure.hint
    if issubclass(kind, errors.InsufficientResourcesError):
        return kind(message, shortage=failure.shortage or "unexplained", hint=hint)
    if issubclass(kind, errors.PermissionDeniedError):
        return kind(message, privilege=failure.privilege or "root", hint=hint)
    if issubclass(kind, errors.DeviceBusyError):
        return kind(message, holders=failure.holders, hint=hint)
    if issubclass(kind, errors.ForeignInstanceError):
        return kind(message, instance_ids=failure.instance_ids, hint=hint)
    if issubclass(kind, errors.DriverError):
        return kind(message, code=failure.code, hint=hint)
    return kind(message, hint=hint)


def wire_instance(instance: GpuInstance) -> WireInstance:
    """Write an instance down."""
    return WireInstance(
        id=instance.id,
        profile=instance.profile.name,
        start=instance.placement.start,
        size=instance.placement.size,
        uuid=instance.uuid,
    )


def instance_of(wire: WireInstance, model: GpuModel) -> GpuInstance:
    """Read an instance that was written down.

    Raises:
        HelperError: The board has no such profile, or not there.
    """
    try:
        placement = Placement(start=wire.start, size=wire.size)
        placed = PlacedProfile(profile=model.profile(wire.profile), placement=placement)
    except (MigError, ValueError) as error:
        raise HelperError(f"instance {wire.id} of the helper: {error}", hint=_VERSIONS) from error
    return GpuInstance(id=wire.id, profile=placed.profile, placement=placed.placement, uuid=wire.uuid)


_VERSIONS = "Run the same version of Clover on both sides."

_ERRORS: Final[dict[str, type[MigError]]] = {
    each.__name__: each
    for each in (
        MigError,
        HelperError,
        errors.PartitionRejectedError,
        errors.InsufficientResourcesError,
        errors.DeviceBusyError,
        errors.PermissionDeniedError,
        errors.MigNotSupportedError,
        errors.MigDisabledError,
        errors.ResetRequiredError,
        errors.DriverError,
        errors.NoDriverError,
        errors.DriverTooOldError,
        errors.DriverTimeoutError,
        errors.GpuLostError,
        errors.GpuLockedError,
        errors.ForeignInstanceError,
        errors.RecordError,
        errors.UnknownGpuModelError,
    )
}
