"""Options for answering several requests with one inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.options import parse_duration
from cli.output import tell
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.fleet import Fleet
    from clover.core.batching import Batching

MaxBatchSize: TypeAlias = Annotated[
    int,
    typer.Option(
        "--max-batch-size",
        help="Most requests that one instance answers together (1: no batching); the table must be of this size.",
        envvar="CLOVER_MAX_BATCH_SIZE",
    ),
]
MaxQueueDelay: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--max-queue-delay",
        parser=parse_duration,
        metavar="DURATION",
        help="With batches: how long after it is due a request waits for others (default: not at all).",
        envvar="CLOVER_MAX_QUEUE_DELAY",
    ),
]


def batching_of(fleet: Fleet, size: int, delay_s: float | None, *, sla_ms: float | None = None) -> Batching:
    """Return what was asked for, checked against backend, family, table and, where it is known, SLA.

    Raises:
        ConfigurationError: It cannot be kept; names the option.
    """
    from clover.core.batching import Batching  # noqa: PLC0415 - keeps --help fast

    try:
        batching = Batching(max_batch_size=size, max_queue_delay_s=delay_s or 0.0)
        if sla_ms is not None:
            batching.check(fleet.model, sla_ms)
    except ValueError as error:
        raise ConfigurationError(f"--max-batch-size, --max-queue-delay: {error}") from error
    check_batches(fleet, size, option="--max-batch-size")
    try:
        batching.check_table(fleet.model.table)
    except ValueError as error:
        raise ConfigurationError(
            str(error),
            hint=f"measure one: clover profile sweep --batch-size {size}; "
            f"or serve with --max-batch-size {fleet.model.table.batch_size}",
        ) from error
    return batching


def check_batches(fleet: Fleet, size: int, *, option: str) -> None:
    """Refuse batches that the backend or the family of an application cannot form, or that are too large.

    Raises:
        ConfigurationError: They cannot be had; names the option.
    """
    from clover.core.batching import MAX_BATCH_SIZE  # noqa: PLC0415 - keeps --help fast
    from clover.serving.family import family_names, forms_batches  # noqa: PLC0415

    if not 1 <= size <= MAX_BATCH_SIZE:
        raise ConfigurationError(f"{option} = {size}: expected 1 to {MAX_BATCH_SIZE}")
    family = fleet.model.application.servicer
    if size > 1 and fleet.backend == "sim":
        raise ConfigurationError(
            f"{option} = {size}: expected 1 with --backend sim, simulated instances serve one request at a time"
        )
    if size > 1 and family in family_names() and not forms_batches(family):
        raise ConfigurationError(f"{option} = {size}: expected 1, the family {family!r} forms no batches")


def tell_batching(text: str) -> None:
    """Print the line of a summary, if requests were served together."""
    if text:
        tell(f"batching    {text}")


def batching_arguments(batching: Batching) -> tuple[str, ...]:
    """Return the options that give a node the same."""
    if not batching.is_on:
        return ()
    delay = ("--max-queue-delay", f"{batching.max_queue_delay_s}s") if batching.max_queue_delay_s else ()
    return "--max-batch-size", str(batching.max_batch_size), *delay
