"""Page 2 of the dashboard: every GPU with its instances, load and power, and a line per node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from cli import dashboard_map as gpu_map
from cli.dashboard_options import Scrolled, ViewOptions, passes, scrolled
from cli.dashboard_text import age, clean, fit, titled_rule, watts
from clover.analysis.view_state import GpuNow, NodeNow, Snapshot

#: Lines of nodes where there is no room to spare; more of them are summed up, those in trouble first.
_NODES_SHOWN = 8
#: GPUs beside each other, at most.
_COLUMNS = 4


def gpus_page(
    snapshot: Snapshot, options: ViewOptions, order: Sequence[str], width: int, room: int
) -> tuple[list[Text], Scrolled]:
    """Draw the page; scrolling goes down the list of GPUs."""
    shown = [row for row in gpu_map.map_rows(snapshot) if passes(_plain(row), options.filter)]
    # What the GPUs do not need beside each other is for the nodes.
    least = -(-len(shown) // max(1, min(_COLUMNS, width // gpu_map.NARROWEST_ROW))) + 2
    nodes = _nodes(snapshot, width, max(min(_NODES_SHOWN, room // 4), room - least, 1))
    lines = [*nodes, _variants(snapshot, order, width)]
    left = max(1, room - len(lines) - 1)
    count = max(1, min(_COLUMNS, width // gpu_map.NARROWEST_ROW, -(-len(shown) // left)))
    part = scrolled(-(-len(shown) // count), left, options.scroll)
    visible = shown[part.first * count : part.end * count]
    note = _note(part, count, len(shown))
    slices = max((node.memory_slices for node in snapshot.nodes), default=0)
    title = f"GPUs by node, {slices} memory slices each{note}" if shown else _nothing(options)
    lines.append(titled_rule(Text(title), width))
    if visible:
        lines += gpu_map.columns(visible, order, width, height=-(-len(visible) // count), count=count)
    return lines, part


def _note(part: Scrolled, count: int, total: int) -> str:
    return f", {part.first * count + 1}-{min(total, part.end * count)} of {total} (↑ ↓)" if part.note else ""


def _nothing(options: ViewOptions) -> str:
    return f"no GPU contains {clean(options.filter)!r}" if options.filter else "no GPUs yet"


def _plain(row: gpu_map.MapRow) -> str:
    """Return what a filter looks at."""
    instances = " ".join(f"{i.variant} {i.profile} {i.phase}" for i in row.gpu.instances)
    return f"{row.name} {row.gpu.phase} {row.gpu.reason} {instances}{' silent' if row.node.silent_s else ''}"


def _nodes(snapshot: Snapshot, width: int, room: int) -> list[Text]:
    """Draw a line per node, and before them one for all if there are several."""
    nodes = sorted(snapshot.nodes, key=lambda node: (not node.silent_s, _failed(node) == 0))
    if not nodes:
        return [Text("no node has been heard yet", style="dim")]
    name_width = max(len(clean(node.name)) for node in nodes)
    lines = [_sum_line("fleet", [gpu for n in nodes for gpu in n.gpus], width)] if len(nodes) > 1 else []
    shown = nodes if len(nodes) + len(lines) <= room else nodes[: max(0, room - len(lines) - 1)]
    lines += [_node_line(node, name_width, width) for node in shown]
    if len(shown) < len(nodes):
        lines.append(Text(f"and {len(nodes) - len(shown)} other nodes", style="dim"))
    return lines


def _failed(node: NodeNow) -> int:
    return sum(gpu.phase == "failed" for gpu in node.gpus)


def _node_line(node: NodeNow, name_width: int, width: int) -> Text:
    line = _sum_line(f"{clean(node.name):>{name_width}}", node.gpus, width)
    if node.silent_s:
        return fit([Text(f"{clean(node.name)} silent for {age(node.silent_s)}", style="bold red"), line], width)
    behind = f"epoch {node.applied_epoch}" + (f" of {node.epoch}" if node.applied_epoch < node.epoch else "")
    return fit([line, behind, f"{node.in_flight} in work", clean(f"{node.backend} {node.gpu_model}")], width, gap="  ")


def _sum_line(name: str, gpus: Sequence[GpuNow], width: int) -> Text:
    """Sum up GPUs: how many in which phase, how busy, how many watts."""
    phases = Counter(gpu.phase for gpu in gpus)
    busy = [gpu.busy for gpu in gpus if gpu.phase == "serving" and gpu.busy is not None]
    power = [gpu.power_w for gpu in gpus if gpu.power_w is not None]
    counted = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
    parts = [
        Text.assemble((f"{name} ", "bold"), f"{len(gpus)} GPUs: {counted}"),
        f"{100.0 * sum(busy) / len(busy):.0f}% busy" if busy else None,
        watts(sum(power)) if power else None,
    ]
    return fit(parts, width, gap="  ")


def _variants(snapshot: Snapshot, order: Sequence[str], width: int) -> Text:
    """Say which colour is which variant, and how many instances each has."""
    counts = Counter(i.variant for node in snapshot.nodes for gpu in node.gpus for i in gpu.instances)
    marks = [
        Text.assemble(
            (f" {order.index(name) + 1} ", gpu_map.variant_style(order, name)), f" {clean(name)} x {counts[name]}"
        )
        for name in order
        if counts[name]
    ]
    return fit([Text("instances", style="bold"), *marks], width, gap="  ")
