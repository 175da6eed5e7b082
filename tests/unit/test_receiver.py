"""The subscriber that the demo and other tests rely on: it must be right before anything is measured with it."""

import asyncio
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from ops.receiver import Answer, Receiver
from tests.conftest import SIGNING_KEY

BODY = '{"type": "session.started", "timestamp": "2026-01-01T00:00:00Z", "data": {"sequence": 1}}'


def signed(body: str = BODY, *, key: str = SIGNING_KEY) -> dict[str, str]:
    """Headers as the callback worker sends them, made by the official library."""
    now = datetime.now(UTC)
    return {
        "webhook-id": "event-1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(key).sign("event-1", now, body),
    }


async def test_a_callback_is_recorded_as_it_came(receiver: Receiver) -> None:
    """Headers, path and the raw bytes; the signature verifies."""
    async with httpx.AsyncClient() as sender:
        answer = await sender.post(receiver.url("/hook"), content=BODY, headers=signed())
    [callback] = await receiver.wait_for(lambda callback: callback.type == "session.started")
    assert answer.status_code == httpx.codes.NO_CONTENT
    assert (callback.path, callback.body, callback.id, callback.verified) == ("/hook", BODY.encode(), "event-1", True)


async def test_a_wrong_or_missing_signature_is_not_verified(receiver: Receiver) -> None:
    """Another key, another body, no headers at all: recorded, told apart, and nothing raises."""
    other_key = "whsec_" + "A" * 32
    async with httpx.AsyncClient() as sender:
        await sender.post(receiver.url(), content=BODY, headers=signed(key=other_key))
        await sender.post(receiver.url(), content=BODY + " ", headers=signed())
        await sender.post(receiver.url(), content=b"\xff")
    assert [callback.verified for callback in receiver.callbacks] == [False, False, False]


async def test_answers_can_be_programmed(receiver: Receiver) -> None:
    """Status, headers and body are what a test says for that callback."""
    receiver.answer = lambda callback: Answer(status=503, headers={"retry-after": "7"}, body=b"later")
    async with httpx.AsyncClient() as sender:
        answer = await sender.post(receiver.url(), content=BODY)
    assert (answer.status_code, answer.headers["retry-after"], answer.text) == (503, "7", "later")


async def test_a_thousand_callbacks_are_all_recorded(receiver: Receiver) -> None:
    """Fifty at a time."""
    count, headers = 1_000, signed()
    async with httpx.AsyncClient(timeout=60) as sender:
        for _ in range(count // 50):
            await asyncio.gather(*(sender.post(receiver.url(), content=BODY, headers=headers) for _ in range(50)))
    assert len(await receiver.wait_for(lambda callback: callback.verified, count=count)) == count
