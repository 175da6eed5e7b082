"""`python -m ops dead-letters` as typed, on a real broker: a look loses nothing, a redrive applies nothing twice."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import aio_pika
import asyncpg
import httpx
import pytest
from aio_pika.abc import AbstractIncomingMessage

from ops.local_stack.processes import Processes
from ops.local_stack.stack import with_login
from shared.errors import RejectCode
from shared.topology import (
    CALLBACK_COMMANDS,
    COMMANDS,
    DEAD,
    PARTNERS,
    SESSION_COMMANDS,
    UNROUTED_QUEUE,
    dead_letter_queue,
)
from tests.servers import REPOSITORY, House, provision
from tests.wire import Wire, eventually, open_wire

SESSION_DEAD = dead_letter_queue(SESSION_COMMANDS)
START = "session.start.v1"
LONGEST = max(RejectCode, key=len)
TIMEOUT_S = 60
# RabbitMQ 4 deletes at the 21st look, unless the queue says otherwise.
LOOKS = 30


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


async def ops(house: House, *arguments: str, typed: bytes = b"", **environment: str) -> Ran:
    """Run the command at a terminal of 80 columns and return what it said."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "dead-letters", *arguments,
        cwd=REPOSITORY, env={**os.environ, "AMQP_URL": house.amqp_url, "COLUMNS": "80", **environment},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await child.communicate(typed)
    assert child.returncode is not None
    assert b"Traceback" not in err
    return Ran(child.returncode, out.decode(), err.decode())


@pytest.fixture
async def wire(house: House) -> AsyncIterator[Wire]:
    """With empty queues."""
    async with open_wire(house.amqp_url) as opened:
        for queue in (SESSION_DEAD, UNROUTED_QUEUE, SESSION_COMMANDS, dead_letter_queue(CALLBACK_COMMANDS)):
            await opened.empty(queue)
        yield opened


@asynccontextmanager
async def queue_of(house: House, name: str) -> AsyncIterator[aio_pika.abc.AbstractQueue]:
    async with await aio_pika.connect(house.amqp_url) as connection:
        channel = await connection.channel()
        yield await channel.get_queue(name, ensure=False)


async def set_aside(
    wire: Wire, body: bytes, *, code: str = "unprocessable", exchange: str = PARTNERS, **properties: Any
) -> str:
    """A dead letter as the session worker leaves one; returns its id."""
    headers = properties.pop("headers", {}) | {
        "error": code,
        "error-detail": "the database said no",
        "failed-at": "2026-05-04T12:00:00.000Z",
        "failed-by": "session_worker",
        "original-exchange": exchange,
        "original-routing-key": START,
    }
    message_id = await wire.publish(SESSION_COMMANDS, body, exchange=DEAD, headers=headers, **properties)
    assert message_id is not None
    return message_id


def start_of(charger: str) -> bytes:
    return json.dumps({"chargerId": charger}).encode()


async def holds(wire: Wire, queue: str, count: int) -> None:
    """Wait until so many wait there: the broker puts back what the command had in hand."""

    async def has_them() -> bool:
        return await wire.depth(queue) == count

    await eventually(has_them)


async def test_list_and_show_tell_why_and_leave_everything_where_it_is(house: House, wire: Wire) -> None:
    letters = [await set_aside(wire, start_of("A")), await set_aside(wire, b"\x1b[2Jnope", code=LONGEST)]
    letters.append(await set_aside(wire, start_of("[bold]" + "x" * 1000)))
    unrouted = await wire.publish("elsewhere.thing.v1", b"{}")

    listed = await ops(house, "list")
    assert (listed.code, listed.err) == (0, "")
    assert max(map(len, listed.out.splitlines())) <= 80
    rows = [line.split() for line in listed.out.splitlines()]
    assert [SESSION_DEAD, "unprocessable", "2", "2026-05-04", "12:00"] in rows
    assert [SESSION_DEAD, LONGEST, "1", "2026-05-04", "12:00"] in rows
    assert [UNROUTED_QUEUE, "unrouted", "1"] in rows
    assert ["callback_worker.events.dead", "0"] in rows
    assert f"{SESSION_DEAD}: 2 of 3 looked at" in (await ops(house, "list", "--limit", "2")).out

    shown = await ops(house, "show", SESSION_COMMANDS)
    assert shown.code == 0
    for text in (*letters, START, "the database said no", "session_worker", "\\x1b[2Jnope", "… (whole with --id)"):
        assert text in shown.out
    assert "\x1b" not in shown.out
    whole = await ops(house, "show", SESSION_DEAD, "--id", letters[2])
    assert start_of("[bold]" + "x" * 1000).decode() in whole.out
    assert letters[0] not in whole.out
    assert str(unrouted) in (await ops(house, "show", UNROUTED_QUEUE)).out

    for queue, ids in ((SESSION_DEAD, letters), (UNROUTED_QUEUE, [unrouted])):
        assert sorted([str((await wire.get(queue)).message_id) for _ in ids]) == sorted(map(str, ids))


async def test_no_number_of_looks_deletes_a_letter(house: House, wire: Wire) -> None:
    """Neither through the management UI, whose own question this is, nor by the command's way."""
    await set_aside(wire, start_of("L"))
    question = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
    path = f"/api/queues/{house.name}/{SESSION_DEAD}/get"
    async with httpx.AsyncClient(base_url=house.management_url, trust_env=False) as api:
        for _ in range(LOOKS):
            assert len((await api.post(path, json=question)).json()) == 1
    async with await aio_pika.connect(house.amqp_url) as connection:
        for _ in range(LOOKS):
            async with connection.channel() as channel:
                await eventually((await channel.get_queue(SESSION_DEAD, ensure=False)).get)
    assert (await wire.get(SESSION_DEAD)).body == start_of("L")


async def test_a_redriven_letter_is_the_message_that_it_was(house: House, wire: Wire) -> None:
    """The same id, body and properties, where it was sent; the headers of its death are gone, its own are back."""
    sent: dict[str, Any] = {
        "type": START, "content_type": "text/plain", "correlation_id": "c-1", "app_id": "partner", "reply_to": "me",
        "timestamp": datetime.fromisoformat("2026-05-04T11:00:00Z"), "user_id": None,
    }  # fmt: skip
    headers = {"traceparent": "00-1", "original-error": "mine", "original-x-death": [{"queue": "q"}]}
    message_id = await set_aside(wire, start_of("P"), headers=headers, **sent)
    assert await ops(house, "redrive", SESSION_DEAD, "--all") == Ran(0, f"1 of {SESSION_DEAD} were redriven.\n", "")
    came = await wire.get(SESSION_COMMANDS)
    assert (came.message_id, came.body, came.exchange, came.routing_key) == (message_id, start_of("P"), PARTNERS, START)
    assert {name: getattr(came, name) for name in sent} == sent
    assert came.headers == {"traceparent": "00-1", "error": "mine", **count_of(came)}
    await holds(wire, SESSION_DEAD, 0)


def count_of(message: AbstractIncomingMessage) -> dict[str, Any]:
    """RabbitMQ 3 tells of quorum queues how often, also when it was never."""
    return {name: value for name, value in message.headers.items() if name == "x-delivery-count"}


async def test_only_the_chosen_ones_are_redriven_and_a_dry_run_does_nothing(house: House, wire: Wire) -> None:
    first, second = await set_aside(wire, start_of("1")), await set_aside(wire, start_of("2"))
    other = await set_aside(wire, start_of("3"), code="not_json")
    dry = await ops(house, "redrive", SESSION_DEAD, "--all", "--dry-run")
    assert (dry.code, dry.out) == (0, f"3 of {SESSION_DEAD} would be redriven.\n")
    await holds(wire, SESSION_DEAD, 3)
    assert (await wire.depth(SESSION_DEAD), await wire.depth(SESSION_COMMANDS)) == (3, 0)
    assert (await ops(house, "redrive", SESSION_DEAD, "--id", second)).code == 0
    assert (await wire.get(SESSION_COMMANDS)).message_id == second
    assert (await ops(house, "redrive", SESSION_DEAD, "--code", "not_json")).code == 0
    assert (await wire.get(SESSION_COMMANDS)).message_id == other
    assert (await wire.get(SESSION_DEAD)).message_id == first
    absent = await ops(house, "redrive", SESSION_DEAD, "--id", second)
    assert (absent.code, absent.err) == (1, f"There is no {second} in {SESSION_DEAD}.\n")


async def test_what_is_redriven_is_applied_once_though_the_command_is_killed_in_between(
    house: House, wire: Wire, database: asyncpg.Connection, processes: Processes
) -> None:
    """Confirmed and not yet acknowledged, it is there twice: the inbox knows the second one."""
    worker = await processes.start("session_worker")
    charger = f"R-{uuid4()}"
    message_id = await set_aside(wire, start_of(charger))
    killed = await ops(house, "redrive", SESSION_DEAD, "--all", VOLTLINE_CRASH_POINT="ops.between_confirm_and_ack")
    assert killed.code == -signal.SIGKILL
    await wire.event(lambda data: data.get("sessionId") == message_id)

    await holds(wire, SESSION_DEAD, 1)
    assert (await ops(house, "redrive", SESSION_DEAD, "--all")).code == 0
    await holds(wire, SESSION_DEAD, 0)
    neighbour = await wire.publish(START, start_of(f"N-{uuid4()}"))
    await wire.event(lambda data: data.get("sessionId") == neighbour)
    assert await database.fetchval('SELECT count(*) FROM charging_sessions WHERE "chargerId" = $1', charger) == 1
    assert len(await wire.events(lambda data: data.get("sessionId") == message_id, count=1)) == 1
    assert await worker.stop() == 0


async def test_what_dies_again_comes_back_and_is_not_redriven_in_a_loop(
    house: House, wire: Wire, processes: Processes
) -> None:
    worker = await processes.start("session_worker")
    ids = [str(await wire.publish(START, b"{nope")) for _ in range(3)]
    await holds(wire, SESSION_DEAD, len(ids))
    ran = await ops(house, "redrive", SESSION_DEAD, "--code", "not_json")
    assert (ran.code, ran.out) == (0, f"3 of {SESSION_DEAD} were redriven.\n")
    await holds(wire, SESSION_DEAD, len(ids))
    letters = [await wire.get(SESSION_DEAD) for _ in ids]
    assert sorted(str(letter.message_id) for letter in letters) == sorted(ids)
    assert {letter.body for letter in letters} == {b"{nope"}
    assert await worker.stop() == 0


async def test_what_cannot_be_routed_stays(house: House, wire: Wire) -> None:
    """A key that nothing was ever for; a binding that is missing now; properties that nobody can read."""
    nobody = await wire.publish("elsewhere.thing.v1", b"{}")
    ran = await ops(house, "redrive", UNROUTED_QUEUE, "--all")
    assert (ran.code, ran.out.splitlines()[0]) == (1, f"0 of {UNROUTED_QUEUE} were redriven.")
    assert "1 stay: no queue is for 'elsewhere.thing.v1' from 'charging.partners'" in ran.out
    assert (await wire.get(UNROUTED_QUEUE)).message_id == nobody

    await wire.publish_under_raw_key(b"elsewhere.\xff", b"raw")
    assert "1 stay: no queue is for" in (await ops(house, "redrive", UNROUTED_QUEUE, "--all")).out
    await holds(wire, UNROUTED_QUEUE, 1)

    unread = await set_aside(wire, b"{}", headers={"original-properties": "ff"})
    unbound = await set_aside(wire, start_of("U"), exchange=COMMANDS)
    async with queue_of(house, SESSION_COMMANDS) as queue:
        await queue.unbind(COMMANDS, "session.#")
        try:
            ran = await ops(house, "redrive", SESSION_DEAD, "--all")
        finally:
            await queue.bind(COMMANDS, "session.#")
    assert ran.code == 1
    assert "1 stay: no queue is bound for it; run: python -m ops provision" in ran.out
    assert "1 stay: its properties cannot be read" in ran.out
    assert {str((await wire.get(SESSION_DEAD)).message_id) for _ in range(2)} == {unread, unbound}


async def test_what_lay_in_unrouted_for_want_of_a_queue_is_redriven_there(house: House, wire: Wire) -> None:
    async with queue_of(house, SESSION_COMMANDS) as queue:
        await queue.delete(if_unused=False, if_empty=False)
    try:
        message_id = await wire.publish(START, start_of("Q"), headers={"error": "mine", "x-mine": 1})
    finally:
        provision(house)
    assert (await ops(house, "redrive", "unrouted", "--all")).code == 0
    came = await wire.get(SESSION_COMMANDS)
    assert (came.message_id, came.exchange, came.routing_key) == (message_id, PARTNERS, START)
    assert came.headers == {"error": "mine", **count_of(came)}
    await holds(wire, UNROUTED_QUEUE, 0)


async def test_the_brokers_own_dead_letters_go_back_to_where_they_were_sent(house: House, wire: Wire) -> None:
    """Those that say they are the gateway's one by one: on RabbitMQ 3 a partner can write that himself."""
    partners = await wire.publish(START, start_of("B"), expiration=timedelta(milliseconds=1), headers={"mine": 1})
    gateways = await wire.publish(START, start_of("G"), expiration=timedelta(milliseconds=1), exchange=COMMANDS)
    await holds(wire, SESSION_DEAD, 2)
    assert [SESSION_DEAD, "expired", "2"] in [line.split()[:3] for line in (await ops(house, "list")).out.splitlines()]
    ran = await ops(house, "redrive", SESSION_DEAD, "--all")
    assert ran.code == 1
    assert "1 stay: it says it is the gateway's" in ran.out
    came = await wire.get(SESSION_COMMANDS)
    assert (came.message_id, came.exchange, came.routing_key, came.body) == (partners, PARTNERS, START, start_of("B"))
    assert (came.headers, came.expiration) == ({"mine": 1, **count_of(came)}, None)
    assert (await ops(house, "redrive", SESSION_DEAD, "--id", str(gateways))).code == 0
    assert (await wire.get(SESSION_COMMANDS)).exchange == COMMANDS


async def test_a_forged_origin_is_not_believed(house: House, wire: Wire) -> None:
    """A partner cannot have an operator publish for him to where he may not."""
    forged = {"queue": SESSION_COMMANDS, "reason": "expired", "exchange": COMMANDS, "routing-keys": [START], "count": 0}
    claims = {"original-exchange": COMMANDS, "original-routing-key": START, "error": "x", "x-death": [forged]}
    await wire.publish(START, start_of("F"), expiration=timedelta(milliseconds=1), headers=claims)
    await holds(wire, SESSION_DEAD, 1)
    if (await ops(house, "redrive", SESSION_DEAD, "--all")).code == 0:  # RabbitMQ 4 has written the truth over it
        assert (await wire.get(SESSION_COMMANDS)).exchange == PARTNERS
    else:
        await holds(wire, SESSION_DEAD, 1)
        assert await wire.depth(SESSION_COMMANDS) == 0


async def test_a_partners_name_is_kept_or_the_letter_stays(house: House, wire: Wire) -> None:
    """`user_id` names the client; the broker takes another's only from a user with the tag `impersonator`."""
    name = f"admin-{uuid4().hex[:8]}"
    url = with_login(house.amqp_url, f"{name}:secret")
    message_id = await set_aside(wire, start_of("I"), headers={"original-user-id": "roaming"})
    anonymous = await set_aside(wire, start_of("J"))
    async with httpx.AsyncClient(base_url=house.management_url, trust_env=False) as api:
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        await api.put(f"/api/users/{name}", json={"password": "secret", "tags": "administrator"})
        await api.put(f"/api/permissions/{house.name}/{name}", json=rights)
        ran = await ops(house, "redrive", SESSION_DEAD, "--all", AMQP_URL=url)
        assert ran.code == 1
        assert "1 stay: the broker refuses it: " in ran.out
        assert (await wire.get(SESSION_COMMANDS)).message_id == anonymous
        await api.put(f"/api/users/{name}", json={"password": "secret", "tags": "administrator,impersonator"})
        assert (await ops(house, "redrive", SESSION_DEAD, "--all", AMQP_URL=url)).code == 0
        await api.delete(f"/api/users/{name}")
    came = await wire.get(SESSION_COMMANDS)
    assert (came.message_id, came.user_id) == (message_id, "roaming")


async def test_drop_asks_and_throws_away_the_chosen_ones(house: House, wire: Wire) -> None:
    kept, bad = await set_aside(wire, start_of("1")), await set_aside(wire, b"{", code="not_json")
    for typed in (b"n\n", b""):
        asked = await ops(house, "drop", SESSION_DEAD, "--all", typed=typed)
        assert (asked.code, asked.out.strip()) == (0, f"0 of {SESSION_DEAD} were thrown away.")
        assert f"Throw away 2 of {SESSION_DEAD} for ever?" in asked.err
    dropped = await ops(house, "drop", SESSION_DEAD, "--id", bad, typed=b"y\n")
    assert dropped.out.strip() == f"1 of {SESSION_DEAD} were thrown away."
    assert (await ops(house, "drop", SESSION_DEAD, "--code", "not_json", "--yes")).code == 0
    assert (await wire.get(SESSION_DEAD)).message_id == kept
    await set_aside(wire, start_of("2"))
    assert (await ops(house, "drop", SESSION_DEAD, "--all", "--yes")).code == 0
    await holds(wire, SESSION_DEAD, 0)


async def test_wrong_use_is_2_and_what_the_broker_denies_is_1(house: House, wire: Wire) -> None:
    for arguments in (
        ("redrive", SESSION_DEAD),
        ("redrive", SESSION_DEAD, "--all", "--code", "x"),
        ("drop", SESSION_DEAD),
        ("show", "charging.events"),
    ):
        assert (await ops(house, *arguments)).code == 2, arguments
    assert (await ops(house, "list", AMQP_URL="")).code == 2
    away = await ops(house, "list", AMQP_URL="amqp://guest:guest@127.0.0.1:1/none")
    assert (away.code, away.err[:8], len(away.err.splitlines())) == (1, "Broker: ", 1)

    name = f"reader-{uuid4().hex[:8]}"
    url = with_login(house.amqp_url, f"{name}:secret")
    async with httpx.AsyncClient(base_url=house.management_url, trust_env=False) as api:
        await api.put(f"/api/users/{name}", json={"password": "secret", "tags": ""})
        await api.put(f"/api/permissions/{house.name}/{name}", json={"configure": "", "write": "", "read": ""})
        await set_aside(wire, b"{}")
        denied = await ops(house, "show", SESSION_DEAD, AMQP_URL=url)
        await api.delete(f"/api/users/{name}")
    assert denied.code == 1
    assert f"(queue {SESSION_DEAD}): AMQP_URL must be an administrator's login" in denied.err
