"""`clover mig export`: the table of UUIDs that programs written for the original read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli import mig_source as source
from cli.options import host_name
from cli.output import print_json, tell

if TYPE_CHECKING:
    from mig.device import Gpu
    from mig.lookup import Walk

Form = Literal["original", "full"]


def export(
    gpus: source.Gpus = None,
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write (default: print).")] = None,
    form: Annotated[
        Form, typer.Option("--form", help="original: host, GPU, code, UUIDs. full: profile, place and ids too.")
    ] = "original",
    codes: Annotated[str, typer.Option("--codes", help="Codes to walk, such as 0,1,3-5.")] = "0-18",
    node: Annotated[str | None, typer.Option("--node", help="Name of the host in the table.")] = None,
    dry_run: source.DryRun = False,
    simulate: source.Simulate = None,
    helper: source.Helper = None,
    state_dir: source.StateDir = None,
    as_json: source.Json = False,
) -> None:
    """Cut free GPUs by every partition code in turn and write down the UUID of each slice; then cut them as before.

    The table is a picture: nothing promises that UUIDs come back, so Clover itself never reads one.
    Example: clover mig export --output mig_uuids.json
    """
    from mig.codes import CODES  # noqa: PLC0415 - keeps --help fast
    from mig.goal import InvalidGoalError, parse_gpus  # noqa: PLC0415

    try:
        wanted = parse_gpus(codes, range(len(CODES)))
    except InvalidGoalError as error:
        raise InvalidGoalError(f"--codes {codes!r}: expected codes from 0 to 18, such as 0,1,3-5") from error
    _check_output(output)

    async def work(host: source.Host) -> tuple[dict[str, Any], list[Walk]]:
        return host.head(), await _walk_all(host, gpus, wanted, dry_run=dry_run)

    where = source.Source(simulate=simulate, helper=helper, state_dir=state_dir)
    head, walks = source.run_on(where, work)
    if dry_run:
        tell("the GPUs are free; nothing was changed")
        return
    _write(walks, head, form=form, host=node or host_name(), output=output, as_json=as_json)


def _check_output(output: Path | None) -> None:
    """Refuse what cannot be written before GPUs are cut for it."""
    from clover.errors import ConfigurationError  # noqa: PLC0415 - keeps --help fast

    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise ConfigurationError(f"--output {output}: expected a file in a folder that is there")


async def _walk_all(host: source.Host, gpus: list[str] | None, codes: tuple[int, ...], *, dry_run: bool) -> list[Walk]:
    from mig.lookup import require_free, walk_codes  # noqa: PLC0415 - keeps --help fast
    from mig.managed import ManagedGpu  # noqa: PLC0415

    async def check(gpu: Gpu) -> None:
        with ManagedGpu(gpu, host.store) as managed:
            await require_free(managed)

    async def one(gpu: Gpu) -> Walk:
        with ManagedGpu(gpu, host.store) as managed:
            return await walk_codes(managed, codes, done=lambda code: tell(f"GPU {gpu.index}: code {code}"))

    chosen = host.chosen(gpus)
    _raise_first(await source.for_each(chosen, check))
    if dry_run:
        return []
    return _raise_first(await source.for_each(chosen, one))


def _raise_first(done: list[tuple[Gpu, Any]]) -> list[Any]:
    from mig.errors import MigError  # noqa: PLC0415 - keeps --help fast

    errors = [came for _, came in done if isinstance(came, MigError)]
    for error in errors[1:]:
        source.tell_error(error)
    if errors:
        raise errors[0]
    return [came for _, came in done]


def _write(
    walks: list[Walk], head: dict[str, Any], *, form: Form, host: str, output: Path | None, as_json: bool
) -> None:
    import orjson  # noqa: PLC0415 - keeps --help fast

    from clover.errors import ConfigurationError  # noqa: PLC0415
    from mig.files import replace_file  # noqa: PLC0415
    from mig.lookup import full_table, original_table  # noqa: PLC0415

    table = original_table(host, walks) if form == "original" else full_table(host, walks)
    repeatable = [walk.gpu for walk in walks if walk.repeatable is False]
    if repeatable:
        numbers = ", ".join(map(str, repeatable))
        tell(f"warning: GPU {numbers} gave other UUIDs when the same was created again: this table holds for no reader")
    text = orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n"
    if output is not None:
        try:
            replace_file(output, text)
        except OSError as error:
            raise ConfigurationError(f"--output {output}: {error.strerror}") from error
        tell(f"wrote {output}")
    if as_json:
        written = None if output is None else str(output)
        rows = [{"index": walk.gpu, "repeatable": walk.repeatable} for walk in walks]
        print_json({**head, "form": form, "output": written, "gpus": rows, "table": table})
    elif output is None:
        typer.echo(text.decode(), nl=False)
