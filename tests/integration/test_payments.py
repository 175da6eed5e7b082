"""Payments with the sandbox, on a real broker and a real database: links, payments, refunds."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from ops.local_stack.processes import Process, Processes
from shared.topology import PAYMENT_COMMANDS, SESSION_COMMANDS, dead_letter_queue
from tests.wire import Wire, eventually


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(processes: Processes) -> Process:
    return await processes.start("session_worker", GATEWAY_PUBLIC_URL="http://pay.example")


async def told(wire: Wire, session_id: str, kind: str, *, timeout_s: float = 30) -> dict[str, Any]:
    """The event of this type about this session."""
    return await wire.event(lambda data: data["sessionId"] == session_id and data["type"] == kind, timeout_s=timeout_s)


async def completed(wire: Wire, cost: str | None = "12.34") -> str:
    """A completed session of this cost."""
    session_id = await wire.publish("session.start.v1", {"chargerId": f"C-{uuid4()}"})
    assert session_id is not None
    await wire.publish("session.stop.v1", {"sessionId": session_id} | ({} if cost is None else {"finalCost": cost}))
    await told(wire, session_id, "session.completed")
    return session_id


async def with_link(wire: Wire) -> tuple[str, str]:
    """A completed session and its link's id."""
    session_id = await completed(wire)
    event = await told(wire, session_id, "payment.link_created")
    return session_id, event["payment"]["link"]["linkId"]


async def press(wire: Wire, link_id: str, what: str = "link.paid", event_id: str | None = None) -> None:
    """What the gateway publishes when somebody presses a button of the pay page."""
    body = {
        "provider": "sandbox",
        "eventId": event_id or str(uuid4()),
        "event": {"type": what, "linkId": link_id},
    }
    await wire.publish("payment.provider_event.v1", body)


async def paid(wire: Wire) -> str:
    session_id, link_id = await with_link(wire)
    await press(wire, link_id)
    await told(wire, session_id, "payment.paid")
    return session_id


async def payment_of(database: asyncpg.Connection, session_id: str) -> asyncpg.Record:
    row = await database.fetchrow('SELECT * FROM payments WHERE "sessionId" = $1', UUID(session_id))
    assert row is not None
    return row


async def test_a_completed_session_gets_a_link_is_paid_and_refunded(worker: Process, wire: Wire) -> None:
    """The main job: stop, link, pay, refund; each told, each with the whole session and the next sequence."""
    session_id = await completed(wire)
    link = (await told(wire, session_id, "payment.link_created"))["payment"]["link"]
    assert (link["amount"], link["currency"], link["status"]) == ("12.34", "EUR", "PENDING")
    assert link["url"] == f"http://pay.example/sandbox/pay/{link['linkId']}"
    await press(wire, link["linkId"])
    event = await told(wire, session_id, "payment.paid")
    assert (event["payment"]["status"], event["payment"]["paidAmount"], event["sequence"]) == ("PAID", "12.34", 4)
    await wire.publish("payment.refund.v1", {"sessionId": session_id, "amount": "2.34", "reason": "Too slow"})
    event = await told(wire, session_id, "payment.refunded")
    assert event["payment"]["status"] == "PARTIALLY_REFUNDED"
    assert (event["refund"]["amount"], event["refund"]["reason"]) == ("2.34", "Too slow")
    assert event["payment"]["refundedAmount"] == "2.34"


@pytest.mark.parametrize(("cost", "status"), [("0.00", "NOT_REQUIRED"), ("0.49", "WAIVED"), ("0.50", "PENDING")])
async def test_what_cannot_be_collected_gets_no_link(
    worker: Process, wire: Wire, database: asyncpg.Connection, cost: str, status: str
) -> None:
    session_id = await completed(wire, cost)
    event = await told(wire, session_id, "session.completed")
    assert event["payment"]["status"] == status
    assert (await payment_of(database, session_id))["status"] == status


async def test_a_session_without_a_cost_owes_nothing_that_anybody_knows(worker: Process, wire: Wire) -> None:
    event = await told(wire, await completed(wire, None), "session.completed")
    assert (event["finalCost"], event["payment"]) == (None, None)


async def test_a_new_link_replaces_the_old_one_which_nobody_can_pay_any_more(
    worker: Process, wire: Wire, database: asyncpg.Connection
) -> None:
    session_id, old = await with_link(wire)
    await wire.publish("payment.recreate_link.v1", {"sessionId": session_id, "expiresInMinutes": 60})
    events = await wire.events(
        lambda data: data["sessionId"] == session_id and data["type"] == "payment.link_created", count=2
    )
    new = events[-1]["payment"]["link"]["linkId"]
    assert new != old
    assert await database.fetchval("SELECT status FROM sandbox_links WHERE id = $1", old) == "expired"
    await press(wire, old)
    await press(wire, new)
    event = await told(wire, session_id, "payment.paid")
    assert event["payment"]["link"]["linkId"] == new
    assert (await payment_of(database, session_id))["paidAmount"] == Decimal("12.34")


async def test_a_declined_payment_is_told_and_a_new_link_can_be_had(worker: Process, wire: Wire) -> None:
    session_id, link_id = await with_link(wire)
    await press(wire, link_id, "link.declined")
    event = await told(wire, session_id, "payment.failed")
    assert (event["payment"]["status"], event["failureReason"]) == ("FAILED", "PAYMENT_FAILED")
    await wire.publish("payment.recreate_link.v1", {"sessionId": session_id})
    await wire.events(lambda data: data["sessionId"] == session_id and data["type"] == "payment.link_created", count=2)


async def test_a_providers_event_that_comes_many_times_pays_once(worker: Process, wire: Wire) -> None:
    session_id, link_id = await with_link(wire)
    await asyncio.gather(*(press(wire, link_id, event_id="evt-1-" + link_id) for _ in range(10)))
    await told(wire, session_id, "payment.paid")
    other = await paid(wire)
    events = await wire.events(lambda data: data["type"] == "payment.paid", count=2)
    assert sorted(event["sessionId"] for event in events) == sorted([session_id, other])


async def test_two_refunds_that_race_for_the_remainder_through_two_workers(
    worker: Process, processes: Processes, wire: Wire, database: asyncpg.Connection
) -> None:
    """Exactly one of many gets it; the others are refused by an event, and the books say so."""
    second = await processes.start("session_worker")
    session_id = await paid(wire)
    body = {"sessionId": session_id, "amount": "7.00"}
    await asyncio.gather(*(wire.publish("payment.refund.v1", body) for _ in range(6)))
    await told(wire, session_id, "payment.refunded")
    refusals = await wire.events(lambda data: data.get("reason") == "AMOUNT_TOO_LARGE", count=5)
    assert {refusal["command"] for refusal in refusals} == {"payment.refund.v1"}
    assert await database.fetchval('SELECT count(*) FROM payment_refunds WHERE "sessionId" = $1', UUID(session_id)) == 1
    await second.stop()


@pytest.mark.parametrize(
    ("command", "body", "reason"),
    [
        ("payment.refund.v1", {}, "NOT_PAID"),
        ("payment.refund.v1", {"amount": "99.00"}, "NOT_PAID"),
        ("payment.recreate_link.v1", {"sessionId": str(uuid4())}, "UNKNOWN_SESSION"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_an_event(
    worker: Process, wire: Wire, command: str, body: dict[str, Any], reason: str
) -> None:
    session_id, _ = await with_link(wire)
    message_id = await wire.publish(command, {"sessionId": session_id} | body)
    refusal = await wire.event(lambda data: data.get("messageId") == message_id)
    assert (refusal["type"], refusal["reason"]) == ("session.command_rejected", reason)


async def test_a_session_in_progress_has_nothing_to_pay_yet(worker: Process, wire: Wire) -> None:
    session_id = await wire.publish("session.start.v1", {"chargerId": "RUNNING"})
    await told(wire, str(session_id), "session.started")
    message_id = await wire.publish("payment.recreate_link.v1", {"sessionId": session_id})
    refusal = await wire.event(lambda data: data.get("messageId") == message_id)
    assert refusal["reason"] == "NOT_COMPLETED"


async def test_a_command_on_the_wrong_queue_is_a_dead_letter(worker: Process, wire: Wire) -> None:
    """The routing key says the queue, the type says the command; they must agree."""
    await wire.publish("session.stray", {"sessionId": str(uuid4())}, type="payment.refund.v1")
    letter = await wire.get(dead_letter_queue(SESSION_COMMANDS))
    assert letter.headers["error"] == "unknown_type"
    await wire.publish("payment.stray", {"sessionId": str(uuid4())}, type="session.stop.v1")
    letter = await wire.get(dead_letter_queue(PAYMENT_COMMANDS))
    assert letter.headers["error"] == "unknown_type"


async def test_an_event_about_nothing_of_ours_is_taken_and_forgotten(worker: Process, wire: Wire) -> None:
    await press(wire, str(uuid4()))
    await paid(wire)
    assert await wire.depth(dead_letter_queue(PAYMENT_COMMANDS)) == 0


async def test_a_lost_event_of_the_provider_is_made_up_for(
    worker: Process, wire: Wire, database: asyncpg.Connection
) -> None:
    """Links are looked at by themselves from time to time; here the time has come."""
    session_id, link_id = await with_link(wire)
    await database.execute("UPDATE sandbox_links SET status = 'paid', \"paidAt\" = now() WHERE id = $1", link_id)
    await database.execute(
        'WITH due AS (UPDATE payment_links SET "checkAt" = now() WHERE id = $1)'
        ' UPDATE payments SET "dueAt" = now() WHERE "sessionId" = $2',
        UUID(link_id),
        UUID(session_id),
    )
    await told(wire, session_id, "payment.paid")


async def test_a_worker_that_is_killed_at_any_moment_leaves_a_payment_that_another_finishes(
    worker: Process, processes: Processes, wire: Wire, database: asyncpg.Connection
) -> None:
    """Fifty sessions end while workers are killed; each has exactly one link afterwards, at the provider too."""
    await worker.stop()
    before = await database.fetchval("SELECT count(*) FROM sandbox_links")
    ids = [await wire.publish("session.start.v1", {"chargerId": f"K-{number}"}) for number in range(50)]
    for session_id in ids:
        await wire.publish("session.stop.v1", {"sessionId": session_id, "finalCost": "5.00"})
    for delay_s in (0.05, 0.15, 0.3):
        doomed = await processes.start("session_worker")
        await asyncio.sleep(delay_s)  # the moment of its death, in the middle of its work
        await doomed.kill()
    await processes.start("session_worker")

    # What a killed worker had leased is free again; the test does not wait out the lease.
    async def all_have_links() -> bool:
        await database.execute('UPDATE payments SET "leasedUntil" = NULL WHERE "leasedUntil" > now()')
        active = "SELECT count(*) FROM payment_links WHERE status = 'ACTIVE' AND \"sessionId\" = ANY($1::uuid[])"
        return bool(await database.fetchval(active, ids) == 50)

    await eventually(all_have_links, timeout_s=60)
    assert await database.fetchval("SELECT count(*) FROM sandbox_links") - before == 50
