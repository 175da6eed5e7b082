"""The broker: killed, restarted, under an alarm, without its connections, without a queue, full."""

import asyncio
import signal
import time
from collections.abc import Callable

from ops.local_stack import Server
from ops.local_stack.processes import Name
from shared.topology import CALLBACK_COMMANDS, CALLBACK_EVENTS, PAYMENT_COMMANDS, SESSION_COMMANDS, UNROUTED_QUEUE
from tests.faults.crew import NeverFired
from tests.faults.ledger import Ledger
from tests.faults.liveness import edges, says_ready_again
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site

# So few that callers meet the limit at once.
FULL_AT = 20
FULL_FOR_S = 2.5
# The rig's own connections are closed as well, and tell nothing in a log.
NOTICED_WITHIN_S = 1.0
POLL_S = 0.05


async def killed(site: Site, _: Load) -> str:
    return await _gone(site, site.servers.kill)


async def restarted(site: Site, _: Load) -> str:
    return await _gone(site, site.servers.stop)


async def _gone(site: Site, end: Callable[[Server], None]) -> str:
    began = time.monotonic()
    await asyncio.to_thread(end, Server.RABBITMQ)
    try:
        await site.broker.overview()
    except OSError:
        pass
    except Exception as error:
        if "ConnectError" not in type(error).__name__:
            raise
    else:
        raise NeverFired("the broker still answers")
    await asyncio.to_thread(site.servers.start, Server.RABBITMQ)
    return f"away for {time.monotonic() - began:.1f} s"


async def application_stopped(site: Site, _: Load) -> str:
    return await edges(site, Name, lambda: site.broker.control("stop_app"), lambda: site.broker.control("start_app"))


async def connections_closed(site: Site, _: Load) -> str:
    before = _lost(site)
    closed = await site.broker.close_all_connections()
    deadline = time.monotonic() + NOTICED_WITHIN_S
    while (noticed := _lost(site) - before) < closed and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
    if not noticed:
        raise NeverFired("no process lost its connection")
    return f"{closed} closed by the management API, {noticed} noticed"


def _lost(site: Site) -> int:
    """How many lost connections the processes have told of."""
    return sum(process.log.read_bytes().count(b"broker_connection_ended") for process in site.crew.everybody())


def alarm(kind: str, *, on: tuple[str, ...], off: tuple[str, ...]) -> Fault:
    async def inject(site: Site, _: Load) -> str:
        """The broker blocks whoever publishes: gateways, and session workers that have something to tell."""
        workers = list(site.crew.members[Name.SESSION_WORKER])

        async def raise_it() -> None:
            # Behind a blocked gateway nothing comes to the workers but what waited for them.
            for worker in workers:
                worker.signal(signal.SIGSTOP)
            try:
                await site.broker.control(*on)
            finally:
                for worker in workers:
                    worker.signal(signal.SIGCONT)

        publishing = (Name.GATEWAY, Name.SESSION_WORKER)
        return await edges(site, publishing, raise_it, lambda: site.broker.control(*off))

    return Fault(f"broker {kind} alarm", inject)


def queue_deleted(queue: str, worker: Name, *, is_long: bool = False) -> Fault:
    """Deleted while it is empty: what an operator throws away with a queue is gone, and no promise covers it."""

    async def prepare(site: Site) -> None:
        await site.broker.delete_queue(queue)

    async def inject(site: Site, _: Load) -> str:
        told = await edges(site, (worker,), lambda: asyncio.sleep(0), lambda: asyncio.to_thread(site.provision))
        redriven = await _redrive_unrouted(site)
        return f"{told}, {redriven} redriven" if redriven else told

    return Fault(f"queue {queue} deleted", inject, prepare=prepare, is_alone=True, is_long=is_long)


async def _redrive_unrouted(site: Site) -> int:
    """Publish again what the broker set aside for want of a queue, as an operator does."""
    letters = await site.broker.collect_letters([UNROUTED_QUEUE])
    for message_id, letter in letters.items():
        while (await site.partner.publish(letter.routing_key, message_id, letter.body)).word.name != "ACKNOWLEDGED":
            await asyncio.sleep(0.2)
        del site.broker.letters[message_id]
    return len(letters)


async def queue_full(site: Site, load: Load) -> str:
    """Nobody consumes, and the queue may hold few."""
    link = site.links[Name.SESSION_WORKER, Server.RABBITMQ]
    await site.broker.limit_queue(SESSION_COMMANDS, FULL_AT)
    link.cut()
    try:
        await asyncio.sleep(FULL_FOR_S)
        link.restore()
        await says_ready_again(site, Name.SESSION_WORKER)
    finally:
        link.restore()
        await site.broker.unlimit_queue()
    refusals = load.ledger.answers()
    count, nacks = refusals["503 broker-unavailable"], refusals["nack"]
    if not count:
        raise NeverFired(f"no call was refused: {dict(refusals)}")
    return f"{count} calls got 503, {nacks} partners' publishes a nack"


def only_honest_refusals(ledger: Ledger) -> list[str]:
    """Whoever was not acknowledged was told so by a 503."""
    odd = {what: count for what, count in ledger.answers().items() if not what.startswith(("503", "nack"))}
    return [f"callers were told {what} {count} times" for what, count in odd.items()]


FAULTS = (
    Fault("broker kill -9", killed),
    Fault("broker restart", restarted),
    Fault("broker stop_app, start_app", application_stopped),
    alarm("memory", on=("set_vm_memory_high_watermark", "0"), off=("set_vm_memory_high_watermark", "0.4")),
    alarm("disk", on=("set_disk_free_limit", "900000GB"), off=("set_disk_free_limit", "50MB")),
    Fault("all broker connections closed", connections_closed),
    queue_deleted(SESSION_COMMANDS, Name.SESSION_WORKER),
    queue_deleted(CALLBACK_EVENTS, Name.CALLBACK_WORKER),
    queue_deleted(PAYMENT_COMMANDS, Name.SESSION_WORKER, is_long=True),
    queue_deleted(CALLBACK_COMMANDS, Name.CALLBACK_WORKER, is_long=True),
    Fault("broker queue full", queue_full, check=only_honest_refusals, rate=60),
)
