"""The checker finds every kind of broken promise when it is planted, and nothing in a run that kept them all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from clover.core.outcome import Outcome, ProducerOutcome
from clover.errors import ConfigurationError
from clover.sim.faults.checker import TIMER_GRACE_MS, check
from clover.sim.faults.history import (
    Acted,
    AdmissionEnded,
    AnyRecord,
    Applied,
    Buried,
    CarbonSeen,
    Ended,
    Fault,
    Finished,
    HistoryFile,
    Invoked,
    LeaseTaken,
    Planted,
    ProcessEnded,
    ReplySeen,
    Sample,
    TotalsSeen,
    read_history,
)

DEADLINE_MS = 30_000.0
MIB = 1 << 20


def invoke(one: str = "r1", at: float = 0.0, producer: str = "p") -> Invoked:
    return Invoked(at_ms=at, id=one, producer=producer, due_ms=at, deadline_ms=at + DEADLINE_MS)


def admission(one: str = "r1", result: str = "ok", at: float = 1.0) -> AdmissionEnded:
    return AdmissionEnded(at_ms=at, id=one, result=result)  # pyright: ignore[reportArgumentType]


def reply(one: str = "r1", by: str = "producer", at: float = 100.0) -> ReplySeen:
    return ReplySeen(at_ms=at, id=one, by=by, outcome=Outcome.OK, node="n1")  # pyright: ignore[reportArgumentType]


def end(one: str = "r1", outcome: str = "ok", at: float = 100.0, reason: str = "") -> Ended:
    return Ended(at_ms=at, id=one, outcome=ProducerOutcome(outcome), reason=reason)


def finish(one: str = "r1", *, first: bool = True, at: float = 90.0) -> Finished:
    return Finished(at_ms=at, id=one, node="n1", first=first)


def fault(name: str, from_ms: float, until_ms: float, kind: str = "A") -> Fault:
    return Fault(at_ms=from_ms, until_ms=until_ms, kind=kind, name=name)  # pyright: ignore[reportArgumentType]


def sample(at: float = 100_000.0, *, final: bool = True, **changes: object) -> Sample:
    one = Sample(
        at_ms=at,
        waiting=0,
        pending=0,
        lengths={"req": 0},
        bounds={"req": 100},
        memory_bytes={"server": MIB},
        final=final,
    )
    return msgspec.structs.replace(one, **changes)


def answered(one: str = "r1", at: float = 0.0) -> list[AnyRecord]:
    """A request that went well, executed twice."""
    return [
        invoke(one, at),
        admission(one, "unknown", at + 1),
        admission(one, "ok", at + 50),
        finish(one, at=at + 90),
        finish(one, first=False, at=at + 95),
        reply(one, "producer", at + 100),
        reply(one, "observer", at + 110),
        end(one, at=at + 100),
    ]


GOOD: list[AnyRecord] = [
    *answered("r1"),
    *answered("r2", 2000.0),
    # Refused at the door.
    invoke("r3", 10.0),
    admission("r3", "fail", 11.0),
    end("r3", "overloaded", 11.0, "full"),
    # Its producer died; the reply is there all the same.
    invoke("r4", 20.0, producer="dead"),
    admission("r4", at=21.0),
    ProcessEnded(at_ms=30.0, name="dead", expected=True),
    reply("r4", "observer", 200.0),
    # Lost with the server's data, and said so.
    invoke("r5", 60_000.0),
    admission("r5", at=60_001.0),
    fault("server.flush", 60_100.0, 60_200.0, "B"),
    end("r5", "lost", 60_000.0 + DEADLINE_MS + 2000.0, "no reply 2 s after the deadline: forgotten"),
    fault("carbon.kill", 1200.0, 3000.0),
    fault("controller.kill", 1500.0, 3500.0),
    LeaseTaken(at_ms=5.0, holder="c1", until_ms=6000.0),
    Acted(at_ms=8.0, asked_ms=7.0, holder="c1", epoch=1),
    Applied(at_ms=9.0, node="n1/1", epoch=1),
    LeaseTaken(at_ms=3000.0, holder="c1", until_ms=3000.0),
    LeaseTaken(at_ms=3005.0, holder="c2", until_ms=9000.0),
    Acted(at_ms=3010.0, asked_ms=3007.0, holder="c2", epoch=2),
    Applied(at_ms=3011.0, node="n1/1", epoch=2),
    Planted(at_ms=40.0, stream="req", entry_id="1-0"),
    Buried(at_ms=41.0, stream="req", entry_id="1-0", reason="field 'v'"),
    TotalsSeen(at_ms=50.0, energy_j=5.0, footprint_g=1.0),
    TotalsSeen(at_ms=51.0, energy_j=5.5, footprint_g=1.0),
    TotalsSeen(at_ms=61_000.0, energy_j=0.0, footprint_g=0.0),
    CarbonSeen(at_ms=52.0, to_ms=100.0, status="measured", source="x", fallback_level=0),
    CarbonSeen(at_ms=99_999.0, to_ms=100.0, status="measured", source="x", fallback_level=1),
    sample(),
]


def test_a_run_that_kept_every_promise_is_found_to_have_done_so() -> None:
    verdict = check(GOOD)
    assert verdict.violations == ()
    assert verdict.kept
    assert {k: verdict.counts[k] for k in ("invoked", "acknowledged", "ok", "overloaded", "lost", "faults")} == {
        "invoked": 5, "acknowledged": 4, "ok": 2, "overloaded": 1, "lost": 1, "faults": 3,
    }  # fmt: skip
    assert verdict.counts["duplicate_replies"] == 0
    assert verdict.counts["repeated_executions"] == 2


def without(*gone: AnyRecord) -> list[AnyRecord]:
    assert all(one in GOOD for one in gone)
    return [one for one in GOOD if one not in gone]


_LATE = DEADLINE_MS + 2000.0 + TIMER_GRACE_MS + 1.0
_GROWING = [sample(float(i), final=False, memory_bytes={"n1/7": (100 + 10 * i) * MIB}) for i in range(12)]

PLANTED: dict[str, tuple[str, Sequence[AnyRecord]]] = {
    "two outcomes": ("P1", [*GOOD, end("r1", "late", 120.0)]),
    "no outcome": ("P1", without(end("r1"))),
    "an invented answer": ("P1", without(reply("r1", "producer", 100.0))),
    "two replies for the producer": ("P1", [*GOOD, reply("r1", "producer", 130.0)]),
    "two replies in the stream": ("P1", [*GOOD, reply("r1", "observer", 130.0)]),
    "the fence let two through": ("P1", [*GOOD, finish("r1", at=130.0)]),
    "refused and executed": ("P1", [*GOOD, finish("r3", at=130.0)]),
    "lost under a fault of class A": ("P2", [
        *GOOD, invoke("x"), admission("x"), fault("server.kill", 5.0, 6.0),
        end("x", "lost", DEADLINE_MS + 2000.0, "no reply 2 s after the deadline: forgotten"), reply("x", "observer"),
    ]),
    "lost before the server lost its data": ("P2", [
        *GOOD, invoke("x"), admission("x"), reply("x", "observer"),
        end("x", "lost", DEADLINE_MS + 2000.0, "no reply 2 s after the deadline: forgotten"),
    ]),
    "acknowledged to a dead producer and never replied to": ("P2", without(reply("r4", "observer", 200.0))),
    "given up without a try": ("P2", [
        *GOOD, invoke("x"), admission("x"), end("x", "failed", 500.0, "trimmed"),
        *(ReplySeen(at_ms=400.0, id="x", by=by, outcome=Outcome.FAILED) for by in ("producer", "observer")),
    ]),
    "an outcome long after the deadline": ("P3", [*without(end("r1")), end("r1", "late", _LATE)]),
    "a refusal long after the deadline": ("P3", [
        *GOOD, invoke("x"), admission("x", "fail"), end("x", "overloaded", _LATE, "full"),
    ]),
    "lost without a cause": ("P4", [
        *GOOD, invoke("x", 60_050.0), admission("x", at=60_051.0),
        end("x", "lost", 60_050.0 + DEADLINE_MS + 2000.0, "no reply 2 s after the deadline"),
    ]),
    "a stream over its bound": ("P4", [*GOOD, sample(50.0, final=False, lengths={"req": 101})]),
    "a stream without a bound": ("P4", [*GOOD, sample(50.0, final=False, lengths={"new": 1})]),
    "requests left waiting": ("P4", [*without(sample()), sample(waiting=1)]),
    "requests left pending": ("P4", [*without(sample()), sample(pending=1)]),
    "a growing process": ("P4", [*GOOD, *_GROWING]),
    "a request failed because carbon data was missing": ("P5", [
        *GOOD, invoke("x", 1300.0), admission("x", at=1301.0), finish("x", at=1302.0), reply("x", at=1303.0),
        reply("x", "observer", 1303.0), end("x", "failed", 1303.0, "no intensity"),
    ]),
    "stale data called measured": ("P5", [
        *GOOD, CarbonSeen(at_ms=99_999.0, to_ms=100.0, status="measured", source="x", fallback_level=0),
    ]),
    "a request failed because no controller acted": ("P6", [
        *GOOD, invoke("x", 3400.0), admission("x", at=3401.0), finish("x", at=3402.0), reply("x", at=3403.0),
        reply("x", "observer", 3403.0), end("x", "failed", 3403.0, "no plan"),
    ]),
    "no service while no controller acted": ("P6", [
        *without(fault("carbon.kill", 1200.0, 3000.0)), fault("controller.kill", 20_000.0, 24_000.0),
        invoke("x", 20_500.0), admission("x", at=20_501.0), end("x", "expired", 50_600.0, "expired"),
        reply("x", "producer", 19_000.0), reply("x", "observer", 19_000.0),
    ]),
    "an epoch published twice": ("P7", [*GOOD, Acted(at_ms=3020.0, asked_ms=3019.0, holder="c1", epoch=2)]),
    "acted while another held the lease": ("P7", [*GOOD, Acted(at_ms=4000.0, asked_ms=3900.0, holder="c1", epoch=3)]),
    "a node that went back to an old target": ("P7", [*GOOD, Applied(at_ms=3500.0, node="n1/1", epoch=1)]),
    "a malformed entry that nobody buried": ("P8", [*GOOD, Planted(at_ms=61_300.0, stream="req", entry_id="2-0")]),
    "a malformed entry buried twice": ("P8", [*GOOD, Buried(at_ms=45.0, stream="req", entry_id="1-0", reason="v")]),
    "a malformed entry buried without a reason": ("P8", [
        *GOOD, Planted(at_ms=61_300.0, stream="req", entry_id="2-0"),
        Buried(at_ms=61_301.0, stream="req", entry_id="2-0", reason=""),
    ]),
    "a process that fell over": ("P8", [*GOOD, ProcessEnded(at_ms=60.0, name="n1-1", expected=False, detail="1")]),
    "energy that went back": ("P9", [*GOOD, TotalsSeen(at_ms=55.0, energy_j=5.4, footprint_g=1.0)]),
    "grams that went back": ("P9", [*GOOD, TotalsSeen(at_ms=55.0, energy_j=5.5, footprint_g=0.9)]),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_found(planted: str) -> None:
    promise, records = PLANTED[planted]
    found = check(records).violations
    assert {violation.promise for violation in found} == {promise}, found


def test_every_promise_has_a_planted_violation() -> None:
    assert {promise for promise, _ in PLANTED.values()} == {f"P{number}" for number in range(1, 10)}


def test_an_unfinished_run_is_not_blamed_for_what_may_still_come() -> None:
    verdict = check([invoke("r1"), admission("r1"), sample(50.0, final=False, waiting=1)])
    assert verdict.kept


def test_a_history_survives_the_death_of_its_writer(tmp_path: Path) -> None:
    first, second = HistoryFile(tmp_path, "a"), HistoryFile(tmp_path, "b")
    records = answered()
    second.write(records[4:])
    first.write(records[:4])
    first.close()
    second.close()
    [path] = tmp_path.glob("a-*")
    with path.open("ab") as torn:
        torn.write(b'{"t":"end","at_m')
    assert read_history(tmp_path) == sorted(records, key=lambda record: record.at_ms)
    with path.open("ab") as torn:
        torn.write(os.linesep.encode())
    with pytest.raises(ConfigurationError, match="line 5"):
        read_history(tmp_path)
