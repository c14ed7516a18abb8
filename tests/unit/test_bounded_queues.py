"""Nothing that a long-running process keeps waiting grows without a bound."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from clover.agents.inbox import Inbox
from clover.core.control import GpuReport, IntensitySeen, LoadSeen, NodeSeen, Sent, Tick
from clover.core.load import LoadEstimate

ROOT = Path(__file__).parents[2]
LONG_RUNNING = ("clover/agents", "clover/bus", "clover/carbon", "clover/power", "clover/serving", "cli", "mig")
MODULES = [path for top in LONG_RUNNING for path in sorted((ROOT / top).rglob("*.py"))]
QUEUES = {"Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"}


def unbounded(source: str) -> Iterator[str]:
    """Return the calls that make a queue or deque without a bound.

    Where the bound follows from elsewhere, a comment on the line or the one above says so: `# Bounded: by ...`.
    """
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func.value if isinstance(node.func, ast.Subscript) else node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        free = (name in QUEUES and not (node.args or "maxsize" in given)) or (
            name == "deque" and len(node.args) < 2 and "maxlen" not in given
        )
        if free and not any("# Bounded: by " in line for line in lines[max(0, node.lineno - 2) : node.lineno]):
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_queue_has_a_bound(path: Path) -> None:
    assert list(unbounded(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("asyncio.Queue()", 1),
        ("asyncio.Queue[int]()", 1),
        ("queue.SimpleQueue()", 1),
        ("asyncio.Queue(5)", 0),
        ("PriorityQueue(maxsize=5)", 0),
        ("deque()", 1),
        ("collections.deque([1])", 1),
        ("deque([1], 5)", 0),
        ("deque(maxlen=5)", 0),
        ("# Bounded: by its callers\nx = deque()", 0),
        ("# Bounded: by its callers\nx = deque()\ny = deque()", 1),
    ],
)
def test_the_search_finds_what_has_none(source: str, found: int) -> None:
    assert len(list(unbounded(source))) == found


# --- the controller's


def seen(node: str, epoch: int = 0) -> NodeSeen:
    report = GpuReport(phase="serving", applied_epoch=epoch)
    return NodeSeen(node=node, boot_id="b1", interval_s=1.0, gpus={0: report})


def taken(inbox: Inbox) -> list[object]:
    async def test() -> list[object]:
        return [await inbox.get() for _ in range(len(inbox))]

    return asyncio.run(test())


def test_of_events_about_the_same_the_latest_wins_in_the_place_of_the_first_and_ticks_come_last() -> None:
    inbox = Inbox()
    for epoch in range(1000):
        for node in ("n1", "n2"):
            inbox.put(seen(node, epoch))
        inbox.put(Tick())
        inbox.put(LoadSeen(load=LoadEstimate.sure(float(epoch))))
        inbox.put(IntensitySeen(effective=float(epoch)))
    inbox.put(Sent(epoch=7))
    assert len(inbox) == 6
    assert inbox.coalesced == 5 * 999
    assert taken(inbox) == [
        seen("n1", 999),
        seen("n2", 999),
        LoadSeen(load=LoadEstimate.sure(999.0)),
        IntensitySeen(effective=999.0),
        # Time passes after what was seen until then: nobody was silent whose news wait here.
        Tick(),
        Sent(epoch=7),
    ]
    assert len(inbox) == 0


def test_more_nodes_than_the_bound_are_heard_when_there_is_room() -> None:
    inbox = Inbox(max_nodes=2)
    for node in ("n1", "n2", "n3"):
        inbox.put(seen(node))
    inbox.put(Tick())
    assert (len(inbox), inbox.refused) == (3, 1)
    assert taken(inbox) == [seen("n1"), seen("n2"), Tick()]
    inbox.put(seen("n3"))
    assert taken(inbox) == [seen("n3")]


def test_who_waits_is_woken() -> None:
    async def test() -> object:
        inbox = Inbox()
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            waiting = group.create_task(inbox.get())
            await asyncio.sleep(0)
            inbox.put(Tick())
        return waiting.result()

    assert asyncio.run(test()) == Tick()
