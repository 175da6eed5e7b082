"""Applies the commands of the queue `session_worker.payments`; never waits for the provider."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_worker.apply import Policy, Staged, State, apply
from session_worker.payments.provider import Notice, Provider
from session_worker.payments.store import find_subject
from session_worker.session import Received
from shared.clock import now_utc
from shared.commands import ProviderEvent


class PaymentCommands:
    """One batch is one transaction, as with sessions; before it, providers' events get the session they are about."""

    def __init__(self, engine: AsyncEngine, provider: Provider | None, policy: Policy) -> None:
        self._engine = engine
        self._provider = provider
        self._policy = policy

    async def apply(self, batch: Sequence[Received], published: Sequence[UUID]) -> tuple[State, Staged | None]:
        """Decide and commit. Raises what the database raises."""
        notices = {
            received.message_id: notice
            for received in batch
            if isinstance(received.command, ProviderEvent)
            and (notice := await self._notice(received.command)) is not None
        }
        if notices:
            async with self._engine.connect() as tx:
                batch = [await _about(tx, received, notices.get(received.message_id)) for received in batch]
        return await apply(
            self._engine, batch, now=now_utc(), policy=self._policy, published=published, notices=notices
        )

    async def _notice(self, command: ProviderEvent) -> Notice | None:
        if self._provider is None or command.provider != self._provider.name:
            return None
        return await self._provider.parse_webhook(command.event)


async def _about(tx: AsyncConnection, received: Received, notice: Notice | None) -> Received:
    session_id = None if notice is None else await find_subject(tx, notice)
    return received if session_id is None else replace(received, session_id=session_id)
