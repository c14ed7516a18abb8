"""How long to go on asking when something is in use: growing pauses, until a deadline. Pure but for the asking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from mig.errors import DeviceBusyError

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Pauses between attempts.

    Attributes:
        total_s: Sum of all pauses, s; 0 asks only once.
        first_s: The first pause, s; each further one is twice as long.
        most_s: The longest pause, s.
    """

    total_s: float
    first_s: float = 0.05
    most_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.total_s < float("inf"):
            raise ValueError(f"total_s is {self.total_s}: expected a finite number of seconds from 0")
        if not 0.0 < self.first_s <= self.most_s:
            raise ValueError(f"first_s is {self.first_s}: expected more than 0 and at most most_s, {self.most_s}")

    def pauses(self) -> Iterator[float]:
        """Yield the pauses, s; the last one is cut so that the sum is `total_s`."""
        left, pause = self.total_s, self.first_s
        while left > 0.0:
            yield min(pause, left)
            left -= pause
            pause = min(self.most_s, 2.0 * pause)


async def ask_until_free(
    attempt: Callable[[], Awaitable[ResultT]], patience: Patience, sleep: Callable[[float], Awaitable[object]]
) -> ResultT:
    """Ask again while it is busy, and raise the last refusal when patience is over.

    Raises:
        DeviceBusyError: It still is.
    """
    for pause in patience.pauses():
        try:
            return await attempt()
        except DeviceBusyError:
            await sleep(pause)
    return await attempt()
