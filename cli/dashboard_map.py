"""The map of GPUs: a row each, its memory slices as cells, each instance a block in the colour of its variant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.text import Text

from cli.dashboard_text import age, clean, fit, watts
from clover.analysis.palette import look_of
from clover.analysis.view_state import GpuNow, InstanceNow, NodeNow, Snapshot

_PHASE_STYLES = {"changing": "yellow", "failed": "bold red", "parked": "dim", "off": "dim", "empty": "dim"}
#: What is written into a block whose worker does not serve: in full, and where there is little room.
_UNUSUAL = {"starting": ("starting", "~"), "draining": ("draining", "-"), "failed": ("FAILED", "!")}
_STATUS_WIDTH = 25
#: Wider blocks show nothing more.
_WIDEST_CELL = 16
_NARROWEST_CELL = 3
#: GPUs stand beside each other only where each has so much room.
NARROWEST_ROW = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRow:
    """A GPU, or `count` of them that look alike."""

    name: str
    node: NodeNow
    gpu: GpuNow
    count: int = 1


def variant_style(order: Sequence[str], variant: str) -> str:
    """Return the style of a variant's blocks."""
    look = look_of(order, variant)
    return f"{look.ink} on {look.colour}"


def legend(snapshot: Snapshot, order: Sequence[str], width: int) -> Text:
    """Say how many GPUs are in which phase, and which colour is which variant."""
    gpus = [(node, gpu) for node in snapshot.nodes for gpu in node.gpus]
    phases = Counter("silent" if node.silent_s else gpu.phase for node, gpu in gpus)
    in_use = {instance.variant for _, gpu in gpus for instance in gpu.instances}
    marks = [Text.assemble(("■", _foreground(order, name)), f" {name}") for name in order if name in in_use]
    counted = [Text(f"{count} {phase}") for phase, count in phases.most_common()]
    return fit([Text(f"{len(gpus)} GPUs" if gpus else "no GPUs yet"), *marks, *counted], width, gap="  ")


def _foreground(order: Sequence[str], variant: str) -> str:
    return variant_style(order, variant).split()[-1]


def map_rows(snapshot: Snapshot) -> list[MapRow]:
    """Return a row for each GPU, by node."""
    return [
        MapRow(name=f"{clean(node.name)}/{gpu.index}", node=node, gpu=gpu)
        for node in snapshot.nodes
        for gpu in node.gpus
    ]


def rows(snapshot: Snapshot, order: Sequence[str], width: int, height: int) -> list[Text]:
    """Draw all GPUs into so many lines: beside each other if need be, and like ones together if that is not enough."""
    single = map_rows(snapshot)
    if not single or height < 1:
        return []
    for count in (1, 2, 3, 4):
        if count > 1 and width // count < NARROWEST_ROW:
            break
        if len(single) <= count * height:
            return columns(single, order, width, height=-(-len(single) // count), count=count)
    together = _together(single)
    shown = together if len(together) <= height else together[: max(1, height - 1)]
    lines = columns(shown, order, width, height=len(shown), count=1)
    hidden = together[len(shown) :]
    if hidden:
        gpus = sum(row.count for row in hidden)
        lines.append(
            Text(f"… and {gpus} GPUs in {len(hidden)} other states: a larger terminal shows more", style="dim")
        )
    return lines[:height]


def _together(single: Sequence[MapRow]) -> list[MapRow]:
    """Put GPUs that look alike into one row, the most frequent first; what needs attention before all."""
    alike: dict[tuple[object, ...], list[MapRow]] = {}
    for row in single:
        blocks = tuple((i.start, i.size, i.profile, i.variant, i.phase) for i in row.gpu.instances)
        failed = row.name if row.gpu.phase == "failed" else ""
        alike.setdefault((bool(row.node.silent_s), row.gpu.phase, failed, blocks), []).append(row)
    groups = sorted(alike.values(), key=lambda group: (group[0].gpu.phase != "failed", -len(group)))
    return [_group(group) if len(group) > 1 else group[0] for group in groups]


def _group(group: Sequence[MapRow]) -> MapRow:
    """Return a row for all; how busy one of them is says nothing of the others."""
    gpu = group[0].gpu
    instances = tuple(replace(instance, busy=None) for instance in gpu.instances)
    return MapRow(name=f"{len(group)} x", node=group[0].node, gpu=replace(gpu, instances=instances), count=len(group))


def columns(shown: Sequence[MapRow], order: Sequence[str], width: int, *, height: int, count: int) -> list[Text]:
    """Draw rows in `count` columns of `height` lines, down and then to the right."""
    each = (width - 2 * (count - 1)) // count
    name_width = max(len(row.name) for row in shown)
    slices = max(row.node.memory_slices for row in shown)
    room = each - name_width - 3 - _STATUS_WIDTH
    cell = max(_NARROWEST_CELL, min(_WIDEST_CELL, room // slices))
    lines: list[Text] = []
    for index in range(height):
        line = Text()
        for row in shown[index::height]:
            if line:
                line.append("  ")
            line.append_text(_row(row, order, each, name_width, cell))
        lines.append(line)
    return lines


def _row(row: MapRow, order: Sequence[str], width: int, name_width: int, cell: int) -> Text:
    line = Text(f"{row.name:>{name_width}} ")
    line.append_text(_blocks(row, order, cell))
    line.append(" ")
    line.append_text(_status(row))
    line.truncate(width, overflow="ellipsis", pad=True)
    return line


def _blocks(row: MapRow, order: Sequence[str], cell: int) -> Text:
    """Draw the memory slices of a GPU; bars stand where an instance begins or ends."""
    slices, gpu = row.node.memory_slices, row.gpu
    if not gpu.instances:
        word = gpu.phase if gpu.phase in {"parked", "off", "empty", "failed"} else ""
        return Text.assemble("│", (f"{word:^{slices * cell - 1}}", _PHASE_STYLES.get(gpu.phase, "")), "│")
    line, at = Text("│"), 0
    for instance in gpu.instances:
        _append_gap(line, instance.start - at, cell)
        style = variant_style(order, instance.variant)
        label = _label(instance, order, instance.size * cell - 1)
        line.append(label, style="white on red" if instance.phase == "failed" else style)
        line.append("│")
        at = instance.start + instance.size
    _append_gap(line, slices - at, cell)
    return line


def _append_gap(line: Text, slices: int, cell: int) -> None:
    if slices > 0:
        line.append(f"{'·':^{slices * cell - 1}}", style="dim")
        line.append("│")


def _label(instance: InstanceNow, order: Sequence[str], width: int) -> str:
    """Write as much of variant, profile and load as there is room for."""
    variant = clean(instance.variant)
    word, sign = _UNUSUAL.get(instance.phase, ("", ""))
    busy = "" if instance.busy is None or word else f" {100.0 * instance.busy:.0f}%"
    full = f"{variant} {instance.profile} {word}".rstrip() + busy
    for text in (full, f"{variant} {word or instance.profile}", variant):
        if len(text) <= width and (not word or word in text):
            return f"{text:^{width}}"
    return f"{(sign + _short(variant, order, width - len(sign)))[:width]:^{width}}"


def _short(variant: str, order: Sequence[str], width: int) -> str:
    """Return the beginning of a name, or its place in the legend if others begin alike."""
    if len(variant) <= width:
        return variant
    alike = [name for name in order if name != variant and name[:width] == variant[:width]]
    return f"#{order.index(variant) + 1}" if alike and variant in order else variant[:width]


def _status(row: MapRow) -> Text:
    node, gpu = row.node, row.gpu
    if node.silent_s:
        return Text(f"node silent for {age(node.silent_s)}", style="bold red")
    style = _PHASE_STYLES.get(gpu.phase, "")
    if gpu.phase == "serving":
        busy = "" if gpu.busy is None or row.count > 1 else f" {100.0 * gpu.busy:3.0f}% busy"
        return Text(f"serving{busy}{_power(row)}", style=style)
    if gpu.phase == "failed":
        return Text(f"FAILED {age(gpu.since_s)}: {clean(gpu.reason)}", style=style)
    return Text(f"{gpu.phase} {age(gpu.since_s)}{_power(row)}", style=style)


def _power(row: MapRow) -> str:
    return "" if row.gpu.power_w is None or row.count > 1 else f" {watts(row.gpu.power_w)}"
