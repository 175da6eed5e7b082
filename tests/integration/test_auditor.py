"""The fault suite's auditor on the real product: clean after an ordinary load, and not after any of these hands."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from ops.local_stack.processes import Name, Processes
from ops.receiver import Callback, Receiver
from tests.conftest import SIGNING_KEY
from tests.faults.auditor import facts_of
from tests.faults.counting import count
from tests.faults.database import Database
from tests.faults.findings import Findings
from tests.faults.ledger import Ledger
from tests.faults.load import Load
from tests.faults.partner import Partner
from tests.servers import House
from tests.wire import eventually

STORIES = 12


@dataclass
class Audited:
    """A load that has come to its end, to be audited as often as one likes."""

    ledger: Ledger
    database: Database
    callbacks: list[Callback]

    async def look(self) -> Findings:
        return count(self.ledger, await facts_of(self.database, self.ledger, self.callbacks))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def audited(house: House, processes: Processes) -> AsyncIterator[Audited]:
    """Requests, sessions, partners' sessions and payments, through one process of each kind."""
    gateway = await processes.start(Name.GATEWAY)
    await processes.start(Name.SESSION_WORKER)
    await processes.start(Name.CALLBACK_WORKER)
    ledger, partner = Ledger("row"), Partner(house.amqp_url)
    async with Receiver(SIGNING_KEY) as receiver:
        weights = {"request": 1, "session": 1, "partner": 1, "payment": 1}
        load = Load(
            ledger, gateways=lambda: [gateway.url], partner=partner, callback_url=receiver.url("row"), rate=20,
            chance=random.Random(1), weights=weights,
        )  # fmt: skip
        running = asyncio.create_task(load.run())
        audited = Audited(ledger, Database(house.database_url), receiver.callbacks)

        async def enough() -> bool:
            return sum(entry.type == "session.stop.v1" for entry in ledger.entries) >= STORIES

        await eventually(enough, timeout_s=60)
        load.stop()
        await running

        async def settled() -> bool:
            return (await audited.look()).is_settled

        await eventually(settled, timeout_s=60)
        yield audited
    await partner.close()


HANDS: dict[str, tuple[str, str]] = {
    "an inbox row deleted": (
        """DELETE FROM inbox WHERE "messageId" =
            (SELECT "messageId" FROM inbox WHERE type = 'session.stop.v1' LIMIT 1)""",
        "lost",
    ),
    "a session deleted": (
        """DELETE FROM charging_sessions WHERE id =
            (SELECT "sessionId" FROM inbox WHERE type = 'session.request.v1' LIMIT 1)""",
        "lost",
    ),
    "a session applied twice": (
        """UPDATE charging_sessions SET sequence = sequence + 1
            WHERE id = (SELECT id FROM charging_sessions LIMIT 1)""",
        "applied_twice",
    ),
    "a delivery undone": (
        """UPDATE callback_deliveries SET state = 'PENDING', "deliveredAt" = NULL
            WHERE id = (SELECT id FROM callback_deliveries LIMIT 1)""",
        "undelivered",
    ),
    "a payment struck from the books": (
        """UPDATE payments SET "paidAmount" = 0 WHERE "sessionId" = (SELECT "sessionId" FROM payments LIMIT 1)""",
        "payments_lost",
    ),
    "a payment made again": (
        """INSERT INTO sandbox_links SELECT id || '-2', "idempotencyKey" || '-2', reference || '-2', description,
            "amountMinor", currency, status, "expiresAt", "createdAt", "paidAt" FROM sandbox_links
            WHERE status = 'paid' LIMIT 1""",
        "charged_twice",
    ),
    "a refund made again": (
        """INSERT INTO sandbox_refunds SELECT id || '-2', "idempotencyKey" || '-2', reference || '-2', "linkId",
            "amountMinor", status, "createdAt" FROM sandbox_refunds LIMIT 1""",
        "refunded_twice",
    ),
}


@pytest.mark.asyncio(loop_scope="module")
async def test_an_ordinary_load_is_clean(audited: Audited) -> None:
    found = await audited.look()
    assert found.is_clean, found.examples
    assert (found.acknowledged, found.payments > 0, found.refunded > 0) == (len(audited.ledger.entries), True, True)


@pytest.mark.parametrize("what", HANDS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_hand_in_the_database_is_seen(audited: Audited, what: str) -> None:
    statement, counted_as = HANDS[what]
    connection = await audited.database.connect()
    # What the auditor reads here is undone afterwards.
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SET LOCAL session_replication_role = replica")  # no foreign key minds
        assert await connection.execute(statement) not in ("DELETE 0", "UPDATE 0", "INSERT 0 0")
        found = count(audited.ledger, await facts_of(Within(connection), audited.ledger, audited.callbacks))
        assert getattr(found, counted_as) > 0
        assert not found.is_clean
    finally:
        await transaction.rollback()
        await connection.close()


CHANGES: dict[str, tuple[Callable[[list[Callback]], Any], str]] = {
    "dropped": (lambda callbacks: callbacks.pop(), "undelivered"),
    "come twice": (lambda callbacks: callbacks.append(callbacks[0]), "duplicates_unexplained"),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_callback_that_is_changed_is_seen(audited: Audited, what: str) -> None:
    change, counted_as = CHANGES[what]
    callbacks = list(audited.callbacks)
    change(callbacks)
    found = count(audited.ledger, await facts_of(audited.database, audited.ledger, callbacks))
    assert getattr(found, counted_as) > 0
    assert not found.is_clean


class Within(Database):
    """The database as one open transaction sees it."""

    def __init__(self, connection: Any) -> None:
        super().__init__("")
        self._connection = connection

    async def fetch_all(self, *queries: Any) -> list[list[Any]]:
        return [await self._connection.fetch(query, *values) for query, values in queries]
