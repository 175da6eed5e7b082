"""Confirmed, mandatory publishing over one supervised connection that is used for nothing else.

Under an alarm the broker stops reading a publishing connection, so consumers have theirs. A publish without a confirm
is UNKNOWN, never failed: the broker may have stored it. The caller repeats it with the same message id.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity, DeliveryError, PublishError

from shared.broker.connection import (
    CLOSE_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    apart,
    heed_cancellation,
    open_channel,
    supervise,
)
from shared.broker.properties import properties
from shared.broker.refusals import Refusals
from shared.errors import NotProvisioned
from shared.logs import get_logger
from shared.messages import Outgoing

log = get_logger(__name__)

# `connection.blocked` has no callback in aiormq; asking it costs nothing.
BLOCKED_POLL_S = 1.0
READY_WITHIN_S = 0.01
# A routing key that nothing is bound for.
PROBE = "probe"
PROBE_TIMEOUT_S = 5.0


class Outcome(StrEnum):
    """What became of one publish."""

    CONFIRMED = "confirmed"  # on disk
    UNROUTABLE = "unroutable"  # no queue is bound for it; not stored
    REFUSED = "refused"  # the queue is full; not stored
    NOT_SENT = "not_sent"  # no connection, or the broker has blocked it
    UNKNOWN = "unknown"  # no confirm in time: stored or not


@dataclass(eq=False, slots=True)
class _Lane:
    """A channel and how many of its publishes wait for their outcome."""

    channel: AbstractChannel
    closing: "asyncio.Future[Any]" = field(init=False)
    in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.closing = self.channel.closing

    def begin(self, count: int) -> None:
        self.in_flight += count
        self.idle.clear()

    def end(self, count: int) -> None:
        self.in_flight -= count
        if not self.in_flight:
            self.idle.set()


class Publisher:
    """One publishing connection. `run` keeps it alive; `publish` works whenever it is up."""

    def __init__(self, url: str, *, name: str, probes: str | None = None) -> None:
        """`probes` names an exchange that has no binding for `probe`: it is looked for at every connect."""
        self._url = url
        self._name = name
        self._probes = probes
        self._lane: _Lane | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._refusals = Refusals()
        self._blocked = False
        self._missing: NotProvisioned | None = None
        self._in_flight_ids: dict[str, asyncio.Future[None]] = {}
        self.in_flight = 0

    async def run(self) -> None:
        """Keep connected until cancelled."""
        await supervise(self._serve, what=self._name)

    def fault(self) -> str | None:
        """Return why nothing can be published now, or None."""
        if self._missing is not None:
            return str(self._missing)
        if self._lane is None:
            return "not connected to the broker"
        return "blocked by the broker (memory or disk alarm)" if self._blocked else None

    @property
    def is_connected(self) -> bool:
        """Whether a publish would be sent."""
        return self._lane is not None and not self._blocked

    async def publish(self, batch: Sequence[Outgoing], *, timeout_s: float) -> list[Outcome]:
        """Publish all, pipelined, and return one outcome each, in order, within `timeout_s`. Never raises."""
        lane = self._lane
        if lane is None or self._blocked:
            return [Outcome.NOT_SENT] * len(batch)
        # Tasks of our own: a stuck peer makes aiormq raise CancelledError, which must not look like our caller's.
        tasks = [asyncio.create_task(self._publish(lane, outgoing)) for outgoing in batch]
        self.in_flight += len(tasks)
        lane.begin(len(tasks))
        try:
            await asyncio.wait(tasks, timeout=timeout_s)
            return [_outcome(task) for task in tasks]
        finally:
            self.in_flight -= len(tasks)
            lane.end(len(tasks))
            for task in tasks:
                task.cancel()

    async def _publish(self, lane: _Lane, outgoing: Outgoing) -> Outcome:
        """Publish one; of two with one id the second waits, for aiormq tells by the id which one was returned."""
        key = outgoing.message.message_id or ""
        while (earlier := self._in_flight_ids.get(key)) is not None:
            await asyncio.wait([earlier])
        done = self._in_flight_ids[key] = asyncio.get_running_loop().create_future()
        try:
            outcome = await _publish(lane.channel, outgoing)
            self._note(lane, outgoing, outcome)
            return outcome
        except ChannelNotFoundEntity:
            self._missing = NotProvisioned(f"exchange {outgoing.exchange} is missing")
            return Outcome.UNKNOWN
        finally:
            del self._in_flight_ids[key]
            done.set_result(None)

    def _note(self, lane: _Lane, outgoing: Outgoing, outcome: Outcome) -> None:
        route = (outgoing.exchange, outgoing.routing_key)
        if outcome is Outcome.CONFIRMED:
            self._missing = None
            self._refusals.taken(route)
        elif outcome is Outcome.REFUSED and lane is self._lane:
            self._refusals.refused(route, asyncio.get_running_loop().time())

    async def _serve(self) -> None:
        async with open_channel(self._url, name=self._name, confirms=True) as channel:
            if self._probes is not None:
                await self._probe(channel, self._probes)
            self._refusals.begin_channel()
            self._blocked, self._lane = False, _Lane(channel)
            log.info("publisher_connected", what=self._name)
            try:
                await self._watch(self._lane)
            finally:
                self._lane = None

    async def _probe(self, channel: AbstractChannel, exchange: str) -> None:
        """Raise NotProvisioned when the exchange is missing; one that is there returns what nobody is bound for."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await channel.basic_publish(b"", exchange=exchange, routing_key=PROBE, mandatory=True)
        except PublishError:
            self._missing = None
        except ChannelNotFoundEntity as error:
            self._missing = NotProvisioned(f"exchange {exchange} is missing")
            raise self._missing from error

    async def _watch(self, lane: _Lane) -> None:
        """Return or raise when the channel ends; meanwhile notice what the broker blocks, unblocks and refuses."""
        while not lane.closing.done():
            blocked = not await _is_unblocked(lane.channel)
            heed_cancellation()
            if blocked != self._blocked:
                self._blocked = blocked
                log.warning("publisher_blocked" if blocked else "publisher_unblocked", what=self._name)
            if not blocked and self._refusals.want_new_channel(asyncio.get_running_loop().time()):
                lane = self._lane = await self._replace(lane)
                heed_cancellation()
            await asyncio.wait([lane.closing], timeout=BLOCKED_POLL_S)
        await lane.closing

    async def _replace(self, lane: _Lane) -> _Lane:
        """Return a lane on a new channel; the old one keeps what is in flight on it until each outcome is known."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                fresh = await lane.channel.connection.channel(publisher_confirms=True, on_return_raises=True)
        except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
            # Where the connection has ended, so has the old channel.
            log.warning("publisher_keeps_channel", what=self._name, reason=str(error) or type(error).__name__)
            return lane
        finally:
            self._refusals.begin_channel()
        log.info("publisher_changed_channel", what=self._name, reason="only refusals for some time")
        retiring = asyncio.create_task(_retire(lane))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        return _Lane(fresh)


async def _retire(lane: _Lane) -> None:
    """Close the channel once no publish waits on it; callers wait for a limited time, so this ends."""
    while lane.in_flight:
        await lane.idle.wait()
    await apart(lane.channel.close(), timeout_s=CLOSE_TIMEOUT_S)


async def _is_unblocked(channel: AbstractChannel) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(READY_WITHIN_S):
            await channel.connection.ready()
            return True
    return False


async def _publish(channel: AbstractChannel, outgoing: Outgoing) -> Outcome:
    try:
        await channel.basic_publish(
            outgoing.message.body,
            exchange=outgoing.exchange,
            routing_key=outgoing.routing_key,
            properties=properties(outgoing.message),
            mandatory=outgoing.mandatory,
        )
    except PublishError:
        return Outcome.UNROUTABLE
    except DeliveryError:
        return Outcome.REFUSED
    except ChannelNotFoundEntity:
        raise
    except Exception as error:  # whatever broke, the broker may have stored the message
        log.warning("publish_unknown", exchange=outgoing.exchange, reason=str(error) or type(error).__name__)
        return Outcome.UNKNOWN
    return Outcome.CONFIRMED


def _outcome(task: "asyncio.Task[Outcome]") -> Outcome:
    return Outcome.UNKNOWN if not task.done() or task.cancelled() else task.result()
