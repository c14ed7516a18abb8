"""The watcher of the primary against scripted sentinels: which answer counts, what a move does, who is asked next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support import run

from clover.bus.sentinel import Place, PrimaryWatcher
from clover.errors import BusUnavailableError

A, B, C = ("a", 1), ("b", 1), ("c", 1)
OLD, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6379)


class Sentinels:
    """What each sentinel answers: configuration epoch and primary, or nothing; and what it announces."""

    def __init__(self, **answers: tuple[int, Place] | None) -> None:
        self.answers = answers
        self.announced: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.subscribed: list[str] = []
        self.open_lines = 0
        self.switches = 0

    async def open(self, place: Place) -> SentinelLine:
        if self.answers.get(place[0]) is None:
            raise BusUnavailableError(f"{place[0]} is down")
        self.open_lines += 1
        return SentinelLine(self, place[0])

    async def switched(self) -> None:
        self.switches += 1

    def watcher(self, *places: Place) -> PrimaryWatcher:
        return PrimaryWatcher(places, "main", open_line=self.open, switched=self.switched)

    def announce(self, service: str, old: Place, new: Place) -> None:
        text = f"{service} {old[0]} {old[1]} {new[0]} {new[1]}"
        self.announced.put_nowait([b"message", b"+switch-master", text.encode()])


class SentinelLine:
    def __init__(self, sentinels: Sentinels, name: str) -> None:
        self._sentinels = sentinels
        self._name = name

    async def ask(self, *args: Any) -> Any:
        if args[0] == "SUBSCRIBE":
            self._sentinels.subscribed.append(self._name)
            return [b"subscribe", b"+switch-master", 1]
        answer = self._sentinels.answers[self._name]
        if answer is None or args != ("SENTINEL", "MASTER", "main"):
            raise BusUnavailableError("no such master")
        epoch, (host, port) = answer
        return [b"ip", host.encode(), b"port", str(port).encode(), b"config-epoch", str(epoch).encode()]

    async def listen(self) -> Any:
        return await self._sentinels.announced.get()

    async def close(self) -> None:
        self._sentinels.open_lines -= 1


def following(watcher: PrimaryWatcher, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        task = asyncio.create_task(watcher.run())
        try:
            await test()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the other side is a task
            await asyncio.sleep(0.01)


def test_of_different_answers_the_highest_epoch_counts() -> None:
    async def test() -> None:
        sentinels = Sentinels(a=(1, OLD), b=(3, NEW), c=None)
        assert await sentinels.watcher(A, B, C).primary() == NEW
        assert sentinels.open_lines == 0

    run(test())


def test_without_any_answer_it_says_so_and_asks_again() -> None:
    async def test() -> None:
        sentinels = Sentinels(a=None)
        watcher = sentinels.watcher(A)
        with pytest.raises(BusUnavailableError, match="none of 1 sentinels") as caught:
            await watcher.primary()
        assert caught.value.hint
        sentinels.answers["a"] = (1, OLD)
        assert await watcher.primary() == OLD

    run(test())


def test_an_announced_move_renews_everything_at_once_and_once() -> None:
    async def main() -> None:
        sentinels = Sentinels(a=(1, OLD))
        watcher = sentinels.watcher(A)
        assert await watcher.primary() == OLD
        task = asyncio.create_task(watcher.run())
        await until(lambda: sentinels.subscribed == ["a"])
        sentinels.announce("other", OLD, NEW)
        sentinels.answers["a"] = (2, NEW)
        sentinels.announce("main", OLD, NEW)
        await until(lambda: sentinels.switches == 1)
        assert await watcher.primary() == NEW
        sentinels.announce("main", OLD, NEW)
        await until(sentinels.announced.empty)
        assert sentinels.switches == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert sentinels.open_lines == 0

    run(main())


def test_a_move_that_nobody_announced_is_found_by_asking() -> None:
    async def main() -> None:
        sentinels = Sentinels(a=(1, OLD))
        watcher = sentinels.watcher(A)
        await watcher.primary()
        task = asyncio.create_task(watcher.run())
        sentinels.answers["a"] = (2, NEW)
        await until(lambda: sentinels.switches == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main())


def test_a_sentinel_that_is_down_is_passed_over() -> None:
    sentinels = Sentinels(a=None, b=(1, OLD))
    watcher = sentinels.watcher(A, B)

    async def test() -> None:
        await until(lambda: sentinels.subscribed == ["b"])
        assert await watcher.primary() == OLD

    following(watcher, test)
