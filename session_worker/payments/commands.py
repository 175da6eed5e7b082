"""Applies the commands of the queue `session_worker.payments`; never waits for the provider."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_worker.apply import Policy, Staged, State, apply
from session_worker.payments.provider import Notice, Provider
from session_worker.payments.store import find_subject
from session_worker.session import Received
from session_worker.store import seen
from shared.commands import ProviderEvent


class PaymentCommands:
    """One batch is one transaction, as with sessions; before it, providers' events get the session they are about."""

    def __init__(
        self, engine: AsyncEngine, provider: Provider | None, policy: Policy, *, clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._provider = provider
        self._policy = policy
        self._clock = clock

    async def apply(self, batch: Sequence[Received], published: Sequence[UUID]) -> tuple[State, Staged | None]:
        """Decide and commit. Raises what the database raises."""
        notices = await self._notices([each for each in batch if isinstance(each.command, ProviderEvent)])
        if notices:
            async with self._engine.connect() as tx:
                batch = [await _about(tx, received, notices.get(received.message_id)) for received in batch]
        return await apply(
            self._engine, batch, clock=self._clock, policy=self._policy, published=published, notices=notices
        )

    async def _notices(self, events: Sequence[Received]) -> dict[UUID, Notice]:
        """Return what these events are about, but for those that were handled before."""
        notices: dict[UUID, Notice] = {}
        if self._provider is None or not events:
            return notices
        async with self._engine.connect() as tx:
            handled = await seen(tx, {received.message_id for received in events})
        for received in events:
            command = received.command
            assert isinstance(command, ProviderEvent)
            if received.message_id not in handled and command.provider == self._provider.name:
                notice = await self._provider.parse_webhook(command.event)
                if notice is not None:
                    notices[received.message_id] = notice
        return notices


async def _about(tx: AsyncConnection, received: Received, notice: Notice | None) -> Received:
    session_id = None if notice is None else await find_subject(tx, notice)
    return received if session_id is None else replace(received, session_id=session_id)
