"""A live process that works on nothing cannot happen unseen: it ends with 1, or `/readyz` names what is stuck."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from ops.local_stack.processes import Name, Process, Processes
from ops.receiver import Receiver
from shared.callback_commands import Redeliver
from shared.topology import CALLBACK_EVENTS
from tests.callbacks import event, open_source
from tests.patience import SABOTAGE
from tests.proxy import Proxy
from tests.servers import House
from tests.wire import COMMANDS, Wire, eventually

# What is stuck after 20 s seems so after one.
HASTE = 20
ENDS_WITHIN_S = 60
# G9, by the true clock.
UNREADY_WITHIN_S = 30

SESSION_LOOPS = {
    "shared.health:serve_health": "health",
    "shared.broker.publisher:Publisher.run": "publishing",
    "shared.broker.consumer:Consumer.run": "session_worker consumes",
    "session_worker.commands:CommandLoop.run": "handling session_worker.commands",
    "session_worker.sweeper:Sweeper.run": "sweeping",
    "session_worker.authorizer:Authorizer.run": "authorizing",
    "session_worker.authorizer:Authorizer._ask_one_by_one": "authorizing",
    "session_worker.authorizer:Authorizer._write": "authorizing",
    "session_worker.payments.collector:Collector.run": "collecting",
}
CALLBACK_LOOPS = {
    "shared.health:serve_health": "health",
    "shared.broker.publisher:Publisher.run": "publishing",
    "shared.broker.consumer:Consumer.run": "callback_worker consumes",
    "callback_worker.intake:Intake.run": "taking events",
    "callback_worker.retries:Retries.run": "claiming due deliveries",
    "callback_worker.commands:CommandLoop.run": "taking commands",
    "callback_worker.redeliveries:Redeliveries.run": "redelivering",
    "callback_worker.results:Results.run": "writing results",
    "callback_worker.upkeep:Upkeep.run": "upkeep",
}
GATEWAY_LOOPS = {
    "shared.broker.publisher:Publisher.run": "publishing",
    "gateway.outcomes:Outcomes.run": "looking for outcomes",
}
LOOPS = [
    *((Name.SESSION_WORKER, *each) for each in SESSION_LOOPS.items()),
    *((Name.CALLBACK_WORKER, *each) for each in CALLBACK_LOOPS.items()),
    *((Name.GATEWAY, *each) for each in GATEWAY_LOOPS.items()),
]
HTTP_AUTHORIZATION = {
    "AUTHORIZATION": "http",
    "AUTHORIZATION_TIMEOUT_S": "1",
    "AUTHORIZATION_URL": "http://127.0.0.1:1/",
}


class Saboteur:
    """Breaks what it was told to at the start, whenever it is told."""

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self._folder = folder
        (folder / "plan.json").write_text(json.dumps(plan))

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(SABOTAGE), "SABOTAGE": str(self._folder), "SABOTAGE_HASTE": str(HASTE)}

    def begin(self, path: str) -> None:
        (self._folder / path).touch()

    def end(self, path: str) -> None:
        (self._folder / path).unlink()


async def readiness(process: Process) -> tuple[int, str]:
    """The status of `/readyz`, 0 for no answer, and what it says."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            answer = await client.get(f"{process.url}/readyz")
    except httpx.TransportError as error:
        return 0, type(error).__name__
    return answer.status_code, answer.text


async def says(process: Process, status: int, words: str = "", *, timeout_s: float = 45) -> None:
    """Wait until readiness has the status and says these words."""
    said = (0, "")

    async def look() -> bool:
        nonlocal said
        said = await readiness(process)
        return said[0] == status and words in said[1]

    try:
        await eventually(look, timeout_s=timeout_s)
    except AssertionError:
        raise AssertionError(f"{process.name} says {said}, wanted {status} and {words!r}") from None


async def exit_code(process: Process) -> int:
    async def ended() -> bool:
        return process.exit_code is not None

    await eventually(ended, timeout_s=ENDS_WITHIN_S)
    return process.child.wait()


@pytest.mark.parametrize(("name", "path", "loop"), LOOPS, ids=lambda each: str(each).rpartition(":")[2])
async def test_a_process_that_has_lost_a_loop_ends_and_says_which(
    processes: Processes, tmp_path: Path, name: Name, path: str, loop: str
) -> None:
    """The loop ends as by a cancellation that a library leaks: no exception, and a task group would not mind."""
    saboteur = Saboteur(tmp_path, {path: "is cancelled"})
    saboteur.begin(path)
    process = processes.launch(name, port=None, **saboteur.environment, **HTTP_AUTHORIZATION)
    assert await exit_code(process) == 1
    assert f'"loop": "{loop}"' in process.log.read_text()
    assert '"event": "loop_ended"' in process.log.read_text()


async def test_what_clings_to_its_work_does_not_keep_a_process_that_has_lost_a_loop(
    processes: Processes, tmp_path: Path
) -> None:
    """Its task group would wait for ever, without readiness to tell."""
    lost, clinging = "session_worker.payments.collector:Collector.run", "session_worker.sweeper:Sweeper.clear_done"
    saboteur = Saboteur(tmp_path, {lost: "raises", clinging: "clings"})
    saboteur.begin(lost)
    saboteur.begin(clinging)
    process = processes.launch(Name.SESSION_WORKER, port=None, **saboteur.environment)
    assert await exit_code(process) == 1


async def test_a_drain_that_takes_too_long_ends_with_1(processes: Processes, tmp_path: Path) -> None:
    """What is in hand comes again."""
    clinging = "session_worker.sweeper:Sweeper.clear_done"
    saboteur = Saboteur(tmp_path, {clinging: "clings", "shared.process:DRAIN_S": 1.0})
    process = await processes.start(Name.SESSION_WORKER, port=None, **saboteur.environment)
    saboteur.begin(clinging)
    await says(process, 503, "sweeping has been waiting")
    assert await process.stop() == 1
    assert '"event": "drain_took_too_long"' in process.log.read_text()


@pytest.mark.parametrize(("path", "how"), [("gateway.app:_wait_for", "raises"), ("gateway.server:serve", "returns")])
async def test_a_gateway_that_does_not_serve_ends(processes: Processes, tmp_path: Path, path: str, how: str) -> None:
    """It fails at its start, or its server returns as at the end of a drain."""
    saboteur = Saboteur(tmp_path, {path: how})
    saboteur.begin(path)
    process = processes.launch(Name.GATEWAY, port=None, **saboteur.environment)
    assert await exit_code(process) == 1


Trigger = Callable[[], Awaitable[Any]]
# By the place that breaks: how, what makes it work, and the words that readiness must then say.
Points = Mapping[str, tuple[str, Trigger, str]]


@asynccontextmanager
async def broken(process: Process, saboteur: Saboteur, path: str) -> AsyncIterator[None]:
    """Ready before and after, stuck in between."""
    await says(process, 200)
    saboteur.begin(path)
    yield
    saboteur.end(path)
    await says(process, 200)


async def test_a_session_worker_says_what_hangs_in_it(processes: Processes, tmp_path: Path, wire: Wire) -> None:
    """And is ready again when that goes on. What clings does not even end when its time is over."""

    async def nothing() -> None:
        return

    async def start() -> None:
        await wire.publish("session.start.v1", {"chargerId": f"C-{uuid4()}"})

    async def ask() -> None:
        await wire.publish("session.request.v1", {
            "stationId": f"S-{uuid4()}", "driverId": "D", "callbackUrl": "http://127.0.0.1:1/",
        })  # fmt: skip

    async def owe() -> None:
        session_id = await wire.publish("session.start.v1", {"chargerId": f"C-{uuid4()}"})
        await wire.publish("session.stop.v1", {"sessionId": session_id, "finalCost": "12.00"})

    async def refund() -> None:
        await wire.publish("payment.refund.v1", {"sessionId": str(uuid4())})

    points: Points = {
        "session_worker.apply:apply": ("hangs", start, "a batch of session_worker.commands has been waiting"),
        "session_worker.payments.commands:PaymentCommands.apply": (
            "hangs", refund, "a batch of session_worker.payments has been waiting",
        ),
        "session_worker.sweeper:Sweeper.clear_done": ("hangs", nothing, "sweeping has been waiting"),
        "session_worker.sweeper:time_out": ("raises", nothing, "sweeping has failed"),
        "session_worker.authorizer:_ask": ("clings", ask, "asking the authorization service has been waiting"),
        "session_worker.authorizer:decide_requests": ("hangs", ask, "writing verdicts has been waiting"),
        "session_worker.payments.collector:claim_due": ("raises", nothing, "claiming payments has failed"),
        "session_worker.payments.collector:ask": ("clings", owe, "a payment's step has been waiting"),
    }  # fmt: skip
    saboteur = Saboteur(tmp_path, {path: how for path, (how, _, _) in points.items()})
    process = await processes.start(Name.SESSION_WORKER, port=None, **saboteur.environment, **HTTP_AUTHORIZATION)
    await each_shows(process, saboteur, points)
    assert await process.stop() == 0


async def each_shows(process: Process, saboteur: Saboteur, points: Points) -> None:
    """Break one point after the other, give it work, and wait until readiness says what it should."""
    for path, (_, trigger, words) in points.items():
        async with broken(process, saboteur, path):
            await trigger()
            await says(process, 503, words)


async def test_a_callback_worker_says_what_hangs_in_it(
    processes: Processes, house: House, tmp_path: Path, wire: Wire, receiver: Receiver
) -> None:
    """As above."""

    async def nothing() -> None:
        return

    async def redeliver() -> None:
        await wire.publish(Redeliver.TYPE, {"callbackId": str(uuid4())}, exchange=COMMANDS)

    async def happen() -> None:
        await source.publish(event(receiver.url("a")))

    points: Points = {
        "callback_worker.birth:insert_deliveries": ("hangs", happen, "a batch of events has been waiting"),
        "callback_worker.commands:apply": ("hangs", redeliver, "a batch of commands has been waiting"),
        "callback_worker.retries:claim_due": ("hangs", nothing, "claiming due deliveries has been waiting"),
        "callback_worker.redeliveries:find_waiting": ("raises", nothing, "redeliveries has failed"),
        "callback_worker.hosts:Hosts.refresh": ("hangs", nothing, "upkeep has been waiting"),
        "callback_worker.results:close_attempts": ("hangs", happen, "writing results has been waiting"),
        "callback_worker.sender:Sender._exchange": ("clings", happen, "an attempt has been waiting"),
    }  # fmt: skip
    saboteur = Saboteur(tmp_path, {path: how for path, (how, _, _) in points.items()})
    process = await processes.start(Name.CALLBACK_WORKER, port=None, **saboteur.environment)
    async with open_source(house.amqp_url) as source:
        await each_shows(process, saboteur, points)
    assert await process.stop() == 0


async def test_events_that_the_broker_does_not_take_show(
    processes: Processes, house: House, tmp_path: Path, wire: Wire
) -> None:
    """The queue of a subscriber of events is full: they wait in the outbox, and readiness says so."""
    brief: dict[str, Any] = {
        "session_worker.sweeper:OUTBOX_STUCK_AFTER_S": 1.0,
        "session_worker.sweeper:SWEEP_EVERY_S": 0.1,
    }
    process = await processes.start(
        Name.SESSION_WORKER, port=None, **Saboteur(tmp_path, brief).environment, LOG_LEVEL="debug"
    )
    async with full_queue(house, wire, CALLBACK_EVENTS):
        await wire.publish("session.start.v1", {"chargerId": f"C-{uuid4()}"})
        await says(process, 503, "committed events have waited to be published for")
    # As the sweeper of any worker does, once it may claim them.
    connection = await asyncpg.connect(house.database_url)
    await connection.execute("DELETE FROM outbox")
    await connection.close()
    await says(process, 200)
    assert await process.stop() == 0


@asynccontextmanager
async def full_queue(house: House, wire: Wire, queue: str) -> AsyncIterator[None]:
    """An operator lets the queue hold one message, and it does."""
    path = f"/api/policies/{house.name}/full"
    policy = {"pattern": f"^{queue}$", "apply-to": "queues", "definition": {"max-length": 1}}
    async with httpx.AsyncClient(base_url=house.management_url, timeout=30, trust_env=False) as api:
        (await api.put(path, json=policy)).raise_for_status()
        async with open_source(house.amqp_url) as source:
            while await source.is_taken(event(None)):
                pass
        yield
        await api.delete(path)
    await wire.empty(queue)


@pytest.mark.parametrize("server", ["AMQP_URL", "DATABASE_URL"])
async def test_workers_whose_server_hangs_say_so_in_time(processes: Processes, house: House, server: str) -> None:
    """Nothing passes any more, and nobody is told: by the true clock, and for both kinds of worker."""
    async with Proxy(house.environment[server]) as proxy:
        workers = [
            await processes.start(name, port=None, **{server: proxy.url})
            for name in (Name.SESSION_WORKER, Name.CALLBACK_WORKER)
        ]
        proxy.freeze()
        words = "no consumer" if server == "AMQP_URL" else "no answer within 2 s"
        await asyncio.gather(*(says(each, 503, words, timeout_s=UNREADY_WITHIN_S) for each in workers))
        proxy.restore()
        await asyncio.gather(*(says(each, 200, timeout_s=UNREADY_WITHIN_S) for each in workers))
        assert [await each.stop() for each in workers] == [0, 0]
