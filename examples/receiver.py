"""A subscriber of Voltline's callbacks: verifies each, takes it once, and keeps the newest state of each session.

    pip install fastapi uvicorn standardwebhooks
    WEBHOOK_SECRETS=whsec_… python examples/receiver.py

Its memory is lost with the process. A real one keeps `seen` and `newest` in its database, with `webhook-id` as a unique
key, writes both in the transaction in which it acts, and answers after the commit: then each event acts once.
"""

import json
import os
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from standardwebhooks import Webhook

# One secret; two while it is being changed.
SECRETS = [Webhook(secret) for secret in os.environ["WEBHOOK_SECRETS"].split(",")]
# Voltline repeats for three days at the most; what is older than the newest 100,000 will not come again.
SEEN_MOST = 100_000
BODY_MOST_BYTES = 1024 * 1024

app = FastAPI()
seen: OrderedDict[str, None] = OrderedDict()
newest: dict[str, dict[str, Any]] = {}


@app.post("/callbacks")
async def receive(request: Request) -> Response:
    """Answer 204 to what was taken, now or before. Anything but 2xx makes Voltline try again, or give up."""
    body = await request.body()
    if len(body) > BODY_MOST_BYTES or not is_genuine(body, dict(request.headers)):
        return Response(status_code=401)
    event_id = request.headers["webhook-id"]
    if event_id not in seen:
        take(json.loads(body))
        seen[event_id] = None
        if len(seen) > SEEN_MOST:
            seen.popitem(last=False)
    return Response(status_code=204)


def is_genuine(body: bytes, headers: dict[str, str]) -> bool:
    """Whether one of the secrets signed exactly these bytes, within the last five minutes."""
    for secret in SECRETS:
        with suppress(Exception):  # the library has an error of its own and lets others through; all of them mean no
            secret.verify(body, headers, json_parse=False)
            return True
    return False


def take(event: dict[str, Any]) -> None:
    """Act on an event. Retries overtake each other: what is older than what is known changes nothing."""
    data = event["data"]
    subject = data.get("sessionId") or data.get("requestId")
    if data["sequence"] > newest.get(subject, {"sequence": 0})["sequence"]:
        newest[subject] = data | {"type": event["type"]}


@app.get("/sessions/{subject}")
async def show(subject: str) -> dict[str, Any]:
    """What is known of a session, or of a request that became none."""
    return newest.get(subject, {})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")), log_level="warning")
