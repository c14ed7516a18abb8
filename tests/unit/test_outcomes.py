"""A producer's account: each request ends once, and only what was answered before can be answered twice."""

from __future__ import annotations

from support import a_reply, a_request

from clover.agents.outcomes import Outstanding
from clover.core.outcome import ProducerOutcome


def test_a_second_reply_is_a_duplicate() -> None:
    account = Outstanding()
    account.add(a_request("r1", due_ms=0.0))
    assert account.reply(a_reply("r1"), 50.0, sla_p95_ms=100.0) is not None
    assert account.reply(a_reply("r1"), 60.0, sla_p95_ms=100.0) is None
    assert (account.count, account.duplicates) == (0, 1)


def test_the_first_reply_to_a_request_given_up_is_late_and_the_next_a_duplicate() -> None:
    account = Outstanding()
    account.add(a_request("r1", due_ms=0.0))
    ended = account.end("r1", ProducerOutcome.LOST, reason="no reply")
    assert ended is not None
    assert ended.outcome is ProducerOutcome.LOST
    assert account.reply(a_reply("r1"), 1e6, sla_p95_ms=100.0) is None
    assert account.duplicates == 0
    assert account.reply(a_reply("r1"), 1e6, sla_p95_ms=100.0) is None
    assert account.duplicates == 1


def test_replies_to_others_do_not_count() -> None:
    account = Outstanding()
    for _ in range(2):
        assert account.reply(a_reply("stranger"), 1.0, sla_p95_ms=100.0) is None
    assert account.duplicates == 0


def test_the_oldest_deadline_leads() -> None:
    account = Outstanding()
    account.add(a_request("r1", due_ms=0.0, deadline_ms=10.0))
    account.add(a_request("r2", due_ms=5.0, deadline_ms=20.0))
    assert account.oldest_deadline_ms() == 10.0
    assert account.overdue(15.0) == ["r1"]
