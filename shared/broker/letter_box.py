"""A queue of dead letters in a person's hands: what is taken out goes back at the end, unless it was removed.

Nothing is lost however this ends: the broker puts back what was not acknowledged, and `shared/topology.py` gives these
queues no limit to that.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiormq.abc import AbstractChannel
from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    PublishError,
)
from pamqp.commands import Basic

from shared.broker.connection import open_channel
from shared.broker.letters import Letter, read_letter
from shared.broker.properties import inbound, properties
from shared.errors import CannotRedrive, NotProvisioned, Unavailable
from shared.messages import Outgoing

ANSWER_TIMEOUT_S: Final = 10.0


class LetterBox:
    """One queue, and a connection of its own to publish."""

    def __init__(self, queue: str, reading: AbstractChannel, publishing: AbstractChannel) -> None:
        self.queue = queue
        self._reading = reading
        self._publishing = publishing

    async def count(self) -> int:
        """How many wait there, without those that somebody has in hand."""
        declared = await self._reading.queue_declare(self.queue, passive=True, timeout=ANSWER_TIMEOUT_S)
        return (declared and declared.message_count) or 0

    async def letters(self, most: int) -> AsyncIterator[Letter]:
        """Take out one after the other, `most` at the most. What comes in meanwhile is behind them."""
        for _ in range(most):
            delivered = await self._reading.basic_get(self.queue, timeout=ANSWER_TIMEOUT_S)
            if isinstance(delivered.delivery, Basic.GetEmpty):
                return
            yield read_letter(inbound(delivered), self.queue)

    async def remove(self, delivery_tag: int) -> None:
        """Acknowledge the letter: it is gone."""
        await self._reading.basic_ack(delivery_tag)

    async def publish(self, outgoing: Outgoing) -> None:
        """Return once it is confirmed. Raises CannotRedrive where it is certain that it was not taken."""
        try:
            await self._publishing.basic_publish(
                outgoing.message.body,
                exchange=outgoing.exchange,
                routing_key=outgoing.routing_key,
                properties=properties(outgoing.message),
                mandatory=True,
                timeout=ANSWER_TIMEOUT_S,
            )
        except PublishError:
            raise CannotRedrive("no queue is bound for it; run: python -m ops provision") from None
        except DeliveryError:
            raise CannotRedrive("its queue is full") from None
        except TimeoutError:
            told = f"no confirm of {outgoing.message.message_id}; perhaps it is taken, and comes twice under one id"
            raise Unavailable(told) from None
        except ChannelPreconditionFailed as error:
            # A user_id that is not the login's, for example. The refusal has closed the channel.
            connection = self._publishing.connection
            self._publishing = await connection.channel(publisher_confirms=True, on_return_raises=True)
            raise CannotRedrive(f"the broker refuses it: {error}") from None


@asynccontextmanager
async def open_letter_box(url: str, queue: str) -> AsyncIterator[LetterBox]:
    """Open the queue of dead letters. Raises NotProvisioned or Unavailable, also for what fails within."""
    try:
        async with (
            open_channel(url, name="ops dead-letters", confirms=False) as reading,
            open_channel(url, name="ops dead-letters (publishes)", confirms=True) as publishing,
        ):
            yield LetterBox(queue, reading, publishing)
    except ChannelNotFoundEntity as error:
        raise NotProvisioned(str(error)) from error
    except ChannelAccessRefused as error:
        raise Unavailable(f"{error} (queue {queue}): AMQP_URL must be an administrator's login") from error
    except TimeoutError as error:
        raise Unavailable(f"no answer within {ANSWER_TIMEOUT_S:.0f} s") from error
    except (AMQPError, ChannelInvalidStateError, OSError) as error:
        raise Unavailable(str(error) or type(error).__name__) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Unavailable("the connection is stuck") from None
