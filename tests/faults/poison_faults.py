"""Messages that nobody can handle, and messages of other versions: they hurt themselves alone."""

import asyncio
from uuid import uuid4

from ops.local_stack.processes import Name, Process
from shared.topology import SESSION_COMMANDS, dead_letter_queue
from tests.faults.broker import Broker
from tests.faults.crew import NeverFired
from tests.faults.ledger import Word
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site
from tests.wire import Wire, open_wire

DEAD = dead_letter_queue(SESSION_COMMANDS)
LETTERS_WITHIN_S = 15.0
START = "session.start.v1"
HUGE_BYTES = 20 * 1024 * 1024
# In production it is 100; a policy lowers it, so that the row does not take minutes.
DELIVERY_LIMIT = 10
KILLS_MOST_S = 120.0

# What a partner may send, and the code of the dead letter that it becomes.
BODIES: dict[str, tuple[str, bytes, str]] = {
    "not JSON": (START, b"\x00\xff{", "not_json"),
    "deeply nested": (START, b'{"chargerId": "N", "metadata": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "not_json"),
    "wrong type": (START, b'{"chargerId": 5}', "schema_violation"),
    "an array": (START, b"[]", "schema_violation"),
    "empty": (START, b"", "not_json"),
    "unknown version": ("session.start.v9", b'{"chargerId": "V"}', "unknown_type"),
    "unknown type": ("session.nothing.v1", b"{}", "unknown_type"),
    "too large": (START, b'{"chargerId": "L", "x": "' + b"x" * 100_000 + b'"}', "too_large"),
    "refused by a constraint": (START, b'{"chargerId": "POISON"}', "unprocessable"),
}
# The database refuses what every check of ours lets through.
_FORBID = """ALTER TABLE charging_sessions ADD CONSTRAINT poison CHECK ("chargerId" <> 'POISON') NOT VALID"""
_ALLOW = "ALTER TABLE charging_sessions DROP CONSTRAINT poison"


async def poisoned(site: Site, _: Load) -> str:
    # Audits of other rows empty the queue of dead letters as well, into the same book.
    known = set(site.broker.letters)
    await site.database.fetch(_FORBID)
    try:
        async with open_wire(site.house.amqp_url) as wire:
            wanted = {await wire.publish(kind, body) or "": code for kind, body, code in BODIES.values()}
            await wire.publish(START, b"{}", message_id=None)
            await wire.publish_raw(START, b"{}", b"\x00\x40" + b"\xff" * 8)
            await _reuse_an_id(wire)
        await _too_large_for_the_broker(site)
        found = await _letters(site.broker, known, len(wanted) + 2)
    finally:
        await site.database.fetch(_ALLOW)
    wrong = {key: (code, found.get(key)) for key, code in wanted.items() if found.get(key) != code}
    assert not wrong, f"wanted codes and what came: {wrong}"
    assert len(found) == len(wanted) + 2, f"{len(found)} dead letters for {len(wanted) + 2} poisoned messages: {found}"
    return f"{len(found)} dead letters, each with its code; 20 MiB refused by the broker"


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


async def _letters(broker: Broker, known: set[str], count: int) -> dict[str, str]:
    """The codes of the dead letters by message id, once there are as many."""
    async with asyncio.timeout(LETTERS_WITHIN_S):
        while len(broker.letters) - len(known) < count:
            await broker.collect_letters([DEAD])
            await asyncio.sleep(0.2)
    return {key: letter.get("error", "") for key, letter in broker.letters.items() if key not in known}


async def lethal(site: Site, load: Load) -> str:
    """A message that kills whoever handles it: the delivery limit ends it, and its neighbours are handled."""
    poison = str(uuid4())
    point = f"session_worker.before_commit@{poison}"
    await site.broker.limit_deliveries(SESSION_COMMANDS, DELIVERY_LIMIT)
    for worker in list(site.crew.members[Name.SESSION_WORKER]):
        site.crew.leave(worker)
        await worker.stop()
    kills = [0]
    keepers = [asyncio.create_task(_keep_running(site, point, kills)) for _ in range(2)]
    try:
        await site.partner.publish(START, poison, {"chargerId": f"K-{poison}"})
        async with asyncio.timeout(KILLS_MOST_S):
            while poison not in site.broker.letters:
                await site.broker.collect_letters([DEAD])
                await asyncio.sleep(0.3)
    except TimeoutError:
        raise AssertionError(f"no dead letter within {KILLS_MOST_S:.0f} s and {kills[0]} kills") from None
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.wait(keepers)
        await site.broker.unlimit_queue()
        for _new in range(2):
            await site.crew.join(site.crew.launch(Name.SESSION_WORKER))
    if not kills[0]:
        raise NeverFired("it killed nobody")
    return f"killed {kills[0]} workers, then a dead letter"


async def _keep_running(site: Site, point: str, kills: list[int]) -> None:
    """What an orchestrator does: start it again whenever it dies."""
    process: Process | None = None
    try:
        while True:
            if process is None or process.exit_code is not None:
                kills[0] += process is not None
                process = site.crew.launch(Name.SESSION_WORKER, VOLTLINE_CRASH_POINT=point)
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
    Fault("message that kills its worker", lethal, is_alone=True, rate=10),
    Fault("two versions of a message at once", versions_mixed),
)
