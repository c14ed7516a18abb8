"""`clover mig`: the group of commands, and what a board can be cut into. Works without the bus."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import mig_assert, mig_change, mig_export, mig_helper, mig_mode, mig_status
from mig import codes, partition
from mig.profiles import gpu_model

if TYPE_CHECKING:
    from mig.partition import Partition
    from mig.profiles import GpuModel

app = typer.Typer(name="mig", help="Read and change how GPUs are cut into instances.", no_args_is_help=True)


app.command("status", help=mig_status.status.__doc__)(mig_status.status)
app.command("enable", help=mig_mode.enable.__doc__)(mig_mode.enable)
app.command("disable", help=mig_mode.disable.__doc__)(mig_mode.disable)
app.command("plan", help=mig_change.plan.__doc__)(mig_change.plan)
app.command("apply", help=mig_change.apply.__doc__)(mig_change.apply)
app.command("assert", help=mig_assert.assert_.__doc__)(mig_assert.assert_)
app.command("reset", help=mig_change.reset.__doc__)(mig_change.reset)
app.command("export", help=mig_export.export.__doc__)(mig_export.export)
app.command("watch", help=mig_status.watch.__doc__)(mig_status.watch)
app.command("helper", help=mig_helper.helper.__doc__)(mig_helper.helper)


@app.command()
def partitions(
    *,
    model_name: Annotated[
        str, typer.Option("--gpu-model", help="Board: a100-40gb, a100-80gb, a30 or h100-80gb.")
    ] = "a100-40gb",
    all_profiles: Annotated[
        bool, typer.Option("--all-profiles", help="With media-engine and double-memory profiles too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List every partition of a board, derived from its placements, and how many there are.

    Examples: clover mig partitions; clover mig partitions --gpu-model h100-80gb --json
    """
    summary = _summary(gpu_model(model_name), all_profiles=all_profiles)
    if as_json:
        print(json.dumps(summary))
    else:
        _print_table(summary)


def _summary(model: GpuModel, *, all_profiles: bool) -> dict[str, Any]:
    maximal = partition.maximal_layouts(model, all_profiles=all_profiles)
    multisets = partition.multisets(model, all_profiles=all_profiles)
    contained_in_none = partition.inclusion_maximal_multisets(model, all_profiles=all_profiles)
    return {
        "schema": 1,
        "gpu_model": model.name,
        "title": model.title,
        "all_profiles": all_profiles,
        "counts": {
            "layouts": len(partition.layouts(model, all_profiles=all_profiles)),
            "multisets": len(multisets),
            "maximal_layouts": len(maximal),
            "maximal_multisets": len(partition.maximal_multisets(model, all_profiles=all_profiles)),
            "inclusion_maximal_multisets": len(contained_in_none),
        },
        "partitions": [
            {
                "multiset": list(multiset),
                "maximal_layouts": [_placements(layout) for layout in maximal if layout.multiset == multiset],
                "inclusion_maximal": multiset in contained_in_none,
                "codes": list(codes.codes_of_multiset(model, multiset)),
            }
            for multiset in multisets
        ],
    }


def _placements(layout: Partition) -> list[dict[str, Any]]:
    return [
        {
            "profile": each.profile.name,
            "size": each.profile.size,
            "start": each.placement.start,
            "memory_slices": each.placement.size,
        }
        for each in layout.placed
    ]


def _print_table(summary: dict[str, Any]) -> None:
    # Only people need rich; a script that asks for JSON does not wait for it.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(
        title=f"Partitions of {summary['title']}", caption="size@start, in memory slices; * inclusion-maximal"
    )
    for header in ("partition", "maximal layouts", "codes"):
        table.add_column(header)
    for row in summary["partitions"]:
        layouts = ("  ".join(f"{each['size']}@{each['start']}" for each in layout) for layout in row["maximal_layouts"])
        mark = " *" if row["inclusion_maximal"] else ""
        table.add_row(
            partition.format_multiset(row["multiset"]) + mark,
            "\n".join(layouts),
            ", ".join(map(str, row["codes"])),
        )
    console = Console()
    console.print(table)
    for name, count in summary["counts"].items():
        console.print(f"{name.replace('_', ' ')}: {count}")
