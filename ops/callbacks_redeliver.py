"""`python -m ops callbacks redeliver`: publishes the command; the callback worker does the rest."""

import asyncio
from typing import Final
from uuid import UUID

from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console

from ops import callbacks_log, database_access
from shared import logs, settings
from shared.broker.publisher import Outcome, Publisher
from shared.callback_commands import Redeliver
from shared.clock import now_utc
from shared.commands import CLIENT, PRIVILEGED, canonical_body
from shared.ids import uuid7
from shared.messages import Message, Outgoing
from shared.settings import AmqpUrl
from shared.topology import COMMANDS

EXIT_UNAVAILABLE: Final = 1
CONNECT_TIMEOUT_S: Final = 10.0
PUBLISH_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.05


class BrokerSettings(BaseSettings):
    """Where the broker is; the login must be allowed to publish commands, as the gateway's is."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    amqp_url: AmqpUrl


def count(wanted: Redeliver) -> int:
    """Print how many callbacks the filter finds; return the exit status."""

    async def print_count() -> int:
        found = await callbacks_log.count(url, wanted)
        Console(highlight=False).print(f"{found:,} callback{'' if found == 1 else 's'} would be sent again.")
        return 0

    url = database_access.database_url()
    return database_access.run(print_count())


def redeliver(wanted: Redeliver) -> int:
    """Publish the command; return the exit status."""
    url = settings.load(BrokerSettings).amqp_url.get_secret_value()
    # What the connection says of itself is for whoever looks for the reason of a failure.
    logs.configure(format="console", level="warning")
    message_id = uuid7()
    outcome = asyncio.run(_publish(url, wanted, message_id))
    if outcome is not Outcome.CONFIRMED:
        fault = f"Broker: the command was not taken ({outcome}); nothing is sent again because of it."
        if outcome is Outcome.UNKNOWN:
            fault = f"Broker: no confirm; it may have taken the command {message_id} all the same."
        Console(stderr=True, highlight=False).print(fault, style="red", soft_wrap=True)
        return EXIT_UNAVAILABLE
    see = "list" if wanted.callback_id is None else f"show {wanted.callback_id}"
    told = f"Queued as {message_id}. See what becomes of it with: python -m ops callbacks {see}"
    Console(highlight=False).print(told, soft_wrap=True)
    return 0


async def _publish(url: str, wanted: Redeliver, message_id: UUID) -> Outcome:
    publisher = Publisher(url, name="ops", probes=COMMANDS)
    running = asyncio.create_task(publisher.run())
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            while publisher.fault() is not None:  # noqa: ASYNC110 - it tells its state, not the change
                await asyncio.sleep(POLL_S)
        (outcome,) = await publisher.publish([_outgoing(wanted, message_id)], timeout_s=PUBLISH_TIMEOUT_S)
        return outcome
    except TimeoutError:
        return Outcome.NOT_SENT
    finally:
        running.cancel()
        await asyncio.wait([running])


def _outgoing(wanted: Redeliver, message_id: UUID) -> Outgoing:
    message = Message(
        body=canonical_body(wanted),
        message_id=str(message_id),
        type=wanted.TYPE,
        timestamp=now_utc(),
        correlation_id=str(message_id),
        headers={CLIENT: "operator", PRIVILEGED: True},
    )
    return Outgoing(exchange=COMMANDS, routing_key=wanted.TYPE, message=message)
