"""Messages that nobody can handle, and messages of other versions: they hurt themselves alone."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

from ops.local_stack.processes import Name, Process
from shared.broker.hold import SUSPECT_AFTER_DELIVERIES
from shared.topology import (
    CALLBACK_COMMANDS,
    CALLBACK_EVENTS,
    COMMANDS,
    EVENTS,
    PARTNERS,
    PAYMENT_COMMANDS,
    SESSION_COMMANDS,
    dead_letter_queue,
)
from tests.faults.auditor import DEAD_QUEUES
from tests.faults.broker import Letter
from tests.faults.crew import NeverFired
from tests.faults.ledger import Word
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site
from tests.wire import Wire, open_wire

LETTERS_WITHIN_S = 30.0
START = "session.start.v1"
REFUND = "payment.refund.v1"
REDELIVER = "callback.redeliver.v1"
STARTED = "session.started.v1"
HUGE_BYTES = 20 * 1024 * 1024
# In production it is 100; a policy lowers it, so that the row does not take minutes. Too low, it would end neighbours
# that happened to be held beside the killer each time: once a process takes care, half are settled before each death.
DELIVERY_LIMIT = SUSPECT_AFTER_DELIVERIES + 14
KILLS_MOST_S = 180.0


@dataclass(frozen=True)
class Poison:
    """What somebody may send, and the code of the dead letter that it becomes; `properties` are encoded as they are."""

    type: str
    body: bytes
    code: str
    properties: bytes | None = None
    exchange: str = PARTNERS


# Flags (AMQP 0-9-1, 4.2.6.1) and what they announce: nothing at all; a correlation_id that is no UTF-8; a timestamp of
# 2^62 s, which no calendar holds. The broker takes them all.
NO_PROPERTIES = b"\x00\x00"
NOT_UTF_8 = b"\x04\x00\x02\xff\xfe"
NO_TIME = b"\x00\x40" + (2**62).to_bytes(8)

# Every body is another, so that each dead letter can be told from the others.
POISONS: Mapping[str, Poison] = {
    "not JSON": Poison(START, b"\x00\xff{", "not_json"),
    "deeply nested": Poison(
        START, b'{"chargerId": "N", "metadata": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "not_json"
    ),
    "wrong type": Poison(START, b'{"chargerId": 5}', "schema_violation"),
    "an array": Poison(START, b"[]", "schema_violation"),
    "empty": Poison(START, b"", "not_json"),
    "unknown version": Poison("session.start.v9", b'{"chargerId": "V"}', "unknown_type"),
    "unknown type": Poison("session.nothing.v1", b"{}", "unknown_type"),
    "too large": Poison(START, b'{"chargerId": "L", "x": "' + b"x" * 100_000 + b'"}', "too_large"),
    "refused by a constraint": Poison(START, b'{"chargerId": "POISON"}', "unprocessable"),
    "no message_id": Poison(START, b'{"chargerId": "no id"}', "no_message_id", NO_PROPERTIES),
    "correlation_id in no UTF-8": Poison(START, b'{"chargerId": "8"}', "unreadable_properties", NOT_UTF_8),
    "timestamp of 2^62": Poison(START, b'{"chargerId": "62"}', "unreadable_properties", NO_TIME),
    "payment: not JSON": Poison(REFUND, b"{payment", "not_json"),
    "payment: wrong type": Poison(REFUND, b'{"sessionId": 1}', "schema_violation"),
    "payment: unknown version": Poison("payment.refund.v9", b'{"v": 9}', "unknown_type"),
    "payment: timestamp of 2^62": Poison(REFUND, b'{"sessionId": "62"}', "unreadable_properties", NO_TIME),
    "event: not JSON": Poison(STARTED, b"{event", "not_json", exchange=EVENTS),
    "event: wrong type": Poison(STARTED, b'{"type": 1}', "schema_violation", exchange=EVENTS),
    "event: no message_id": Poison(STARTED, b'{"type": "x"}', "no_message_id", NO_PROPERTIES, exchange=EVENTS),
    "event: timestamp of 2^62": Poison(STARTED, b'{"type": "y"}', "unreadable_properties", NO_TIME, exchange=EVENTS),
    "callback: not JSON": Poison(REDELIVER, b"{callback", "not_json", exchange=COMMANDS),
    "callback: wrong type": Poison(REDELIVER, b'{"callbackId": 1}', "schema_violation", exchange=COMMANDS),
    "callback: unknown version": Poison("callback.redeliver.v9", b'{"c": 9}', "unknown_type", exchange=COMMANDS),
    "callback: no UTF-8": Poison(REDELIVER, b'{"c": "8"}', "unreadable_properties", NOT_UTF_8, exchange=COMMANDS),
}
QUEUES = {"session": SESSION_COMMANDS, "payment": PAYMENT_COMMANDS, "callback": CALLBACK_COMMANDS}

# The database refuses what every check of ours lets through.
_FORBID = """ALTER TABLE charging_sessions ADD CONSTRAINT poison CHECK ("chargerId" <> 'POISON') NOT VALID"""
_ALLOW = "ALTER TABLE charging_sessions DROP CONSTRAINT poison"


async def poisoned(site: Site, _: Load) -> str:
    """Each ends in the dead letters of its queue under its code, its body unchanged, or is refused."""
    # Audits of other rows empty the queues of dead letters as well, into the same book.
    known = set(site.broker.letters)
    await site.database.fetch(_FORBID)
    try:
        async with open_wire(site.house.amqp_url) as wire:
            await _reuse_an_id(wire)
            for poison in POISONS.values():
                await _publish(wire, poison)
        await _too_large_for_the_broker(site)
        found = await _letters(site, known)
    finally:
        await site.database.fetch(_ALLOW)
    wrong = {name: told for name, poison in POISONS.items() if (told := _wrong(poison, found))}
    assert not wrong, f"not as they should be: {wrong}"
    assert len(found) == len(POISONS), f"{len(found)} dead letters for {len(POISONS)} poisoned messages"
    return f"{len(found)} dead letters under their codes, bodies unchanged; reused id and 20 MiB refused"


async def _publish(wire: Wire, poison: Poison) -> None:
    if poison.properties is None:
        await wire.publish(poison.type, poison.body, exchange=poison.exchange)
    else:
        await wire.publish_raw(poison.type, poison.body, poison.properties, exchange=poison.exchange)


def _wrong(poison: Poison, found: list[Letter]) -> str:
    queue = CALLBACK_EVENTS if poison.exchange == EVENTS else QUEUES[poison.type.partition(".")[0]]
    letters = [(each.error, each.queue) for each in found if each.body == poison.body]
    return "" if letters == [(poison.code, dead_letter_queue(queue))] else f"wanted {poison.code}, came {letters}"


async def _reuse_an_id(wire: Wire) -> None:
    """The same message_id with another body: an event says no, and no dead letter is made."""
    message_id = str(uuid4())
    await wire.publish(START, {"chargerId": f"A-{message_id}"}, message_id=message_id)
    await wire.event(lambda data: data.get("sessionId") == message_id, timeout_s=15)
    await wire.publish(START, {"chargerId": f"B-{message_id}"}, message_id=message_id)
    await wire.event(
        lambda data: data.get("messageId") == message_id and data.get("reason") == "IDEMPOTENCY_CONFLICT", timeout_s=15
    )


async def _too_large_for_the_broker(site: Site) -> None:
    answer = await site.partner.publish(START, uuid4(), b"x" * HUGE_BYTES)
    await site.partner.close()
    if answer.word is Word.ACKNOWLEDGED:
        raise NeverFired("the broker took 20 MiB")


async def _letters(site: Site, known: set[str]) -> list[Letter]:
    """The dead letters that are new, once there are enough of them, or no more come."""
    try:
        async with asyncio.timeout(LETTERS_WITHIN_S):
            while len(site.broker.letters) - len(known) < len(POISONS):
                await site.broker.collect_letters(DEAD_QUEUES)
                await asyncio.sleep(0.2)
    except TimeoutError:
        pass  # whoever looks at them says which one is missing
    return [letter for key, letter in site.broker.letters.items() if key not in known]


def lethal(what: str, name: Name, queue: str, point: str, *, exchange: str, type: str, is_long: bool = False) -> Fault:
    """A message that kills whoever handles it: the delivery limit ends it, and its neighbours are handled.

    Neighbours are all that is in the same process, from whichever queue.
    """

    async def inject(site: Site, _: Load) -> str:
        poison = str(uuid4())
        await site.broker.limit_deliveries(rf"{name}\.[a-z]+", DELIVERY_LIMIT)
        for worker in list(site.crew.members[name]):
            site.crew.leave(worker)
            await worker.stop()
        kills = [0]
        keepers = [asyncio.create_task(_keep_running(site, name, f"{point}@{poison}", kills)) for _ in range(2)]
        try:
            await site.partner.publish(type, poison, _body_for(type, poison), exchange)
            await _until_a_letter(site, dead_letter_queue(queue), poison, kills)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.wait(keepers)
            await site.broker.unlimit_queue()
            await asyncio.gather(*(site.crew.join(site.crew.launch(name)) for _new in range(2)))
        if not kills[0]:
            raise NeverFired("it killed nobody")
        return f"killed {kills[0]} {name}s, then a dead letter"

    return Fault(what, inject, is_alone=True, is_long=is_long, rate=10, inject_most_s=KILLS_MOST_S + 60)


def _body_for(type: str, poison: str) -> bytes:
    event = {"type": type.removesuffix(".v1"), "timestamp": "2026-01-01T00:00:00.000Z", "data": {"sequence": 1}}
    bodies = {STARTED: event, START: {"chargerId": f"K-{poison}"}, REFUND: {"sessionId": str(uuid4())}}
    return json.dumps(bodies[type]).encode()


async def _until_a_letter(site: Site, queue: str, message_id: str, kills: list[int]) -> None:
    try:
        async with asyncio.timeout(KILLS_MOST_S):
            while message_id not in site.broker.letters:
                await site.broker.collect_letters([queue])
                await asyncio.sleep(0.3)
    except TimeoutError:
        raise AssertionError(f"no dead letter within {KILLS_MOST_S:.0f} s and {kills[0]} kills") from None
    letter = site.broker.letters[message_id]
    assert not letter.error, f"a worker set it aside: {letter}"


async def _keep_running(site: Site, name: Name, point: str, kills: list[int]) -> None:
    """What an orchestrator does: start it again whenever it dies."""
    process: Process | None = None
    try:
        while True:
            if process is None or process.exit_code is not None:
                kills[0] += process is not None
                process = site.crew.launch(name, VOLTLINE_CRASH_POINT=point)
            await asyncio.sleep(0.05)
    finally:
        if process is not None:
            await process.stop()


async def versions_mixed(site: Site, load: Load) -> str:
    """A newer partner sends keys that nobody knows, an older one leaves out what is optional: both are served."""
    newer = {"callbackUrl": load.callback_url, "schemaVersion": 2, "future": {"deep": [1, None]}, "priority": "high"}
    sent = 0
    for number in range(20):
        subject = uuid4()
        body = {"chargerId": f"V-{load.ledger.name}-{number}", **(newer if number % 2 else {})}
        taken = await load.publish(START, f"version-{subject}", subject, subject, body, repeats=True)
        assert taken, "the broker did not take it"
        sent += 1
    query = """SELECT count(*) FROM charging_sessions WHERE "chargerId" LIKE 'V-' || $1 || '-%'"""
    async with asyncio.timeout(LETTERS_WITHIN_S):
        while await site.database.value(query, load.ledger.name) < sent:
            await asyncio.sleep(0.2)
    return f"{sent} of two versions, every one applied"


FAULTS = (
    Fault("poisoned messages", poisoned),
    lethal(
        "message that kills its session_worker", Name.SESSION_WORKER, SESSION_COMMANDS,
        "session_worker.before_commit", exchange=PARTNERS, type=START,
    ),
    lethal(
        "payment command that kills its session_worker", Name.SESSION_WORKER, PAYMENT_COMMANDS,
        "session_worker.before_commit", exchange=PARTNERS, type=REFUND, is_long=True,
    ),
    lethal(
        "message that kills its callback_worker", Name.CALLBACK_WORKER, CALLBACK_EVENTS,
        "callback_worker.before_register", exchange=EVENTS, type=STARTED,
    ),
    Fault("two versions of a message at once", versions_mixed),
)  # fmt: skip
