"""`python -m ops listen`: a receiver on this machine that shows and verifies what arrives, for trying things out."""

import asyncio
import contextlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.json import JSON
from rich.text import Text

from ops.callback_secret import KeySettings
from ops.receiver import Answer, Callback, Receiver
from shared import settings
from shared.signing_keys import keys_of, parse_key

EXIT_UNAVAILABLE = 1


def secret_of(secret: str | None, client: str | None) -> str | None:
    """Return what signatures are verified with; None is nothing. Raises typer.BadParameter."""
    if secret is not None:
        try:
            return parse_key(secret).text()
        except ValueError as error:
            raise typer.BadParameter(f"the secret {error}") from error
    if not os.environ.get("CALLBACK_SIGNING_KEYS"):
        return None
    return keys_of(client, settings.load(KeySettings).callback_signing_keys)[0].text()


def main(secret: str | None, *, host: str, port: int, status: int) -> int:
    """Show callbacks until Ctrl-C; return the exit status."""
    console = Console(highlight=False)
    try:
        asyncio.run(_listen(console, secret, host, port, status))
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        Console(stderr=True, highlight=False).print(f"Port {port}: {error.strerror or error}", style="red")
        return EXIT_UNAVAILABLE
    return 0


async def _listen(console: Console, secret: str | None, host: str, port: int, status: int) -> None:
    receiver, screen = Receiver(secret), Screen(console, status, verifies=secret is not None)
    receiver.answer = screen.show
    await receiver.open(host, port)
    try:
        console.print(f"Listening at [bold]{receiver.url('callback')}[/], answering {status}. Ctrl-C ends.")
        if secret is None:
            console.print("Nothing is verified: give --secret, or set CALLBACK_SIGNING_KEYS.", style="yellow")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    finally:
        await receiver.close()


@dataclass
class Screen:
    """Shows each callback as it comes, and what a subscriber would make of it."""

    console: Console
    status: int
    verifies: bool
    seen: Counter[str] = field(default_factory=Counter)
    latest: dict[str, int] = field(default_factory=dict)

    def show(self, callback: Callback) -> Answer:
        """Print the callback and return the answer to it."""
        body = _parsed(callback.body)
        head = Text(f"{datetime.now():%H:%M:%S}  ")  # noqa: DTZ005 - a clock on the wall of whoever looks
        head.append(f"{body.get('type', 'no event')}  ", "bold")
        head.append(*self._verdict(callback))
        for remark in self._remarks(callback, body):
            head.append(f"  {remark}", "yellow")
        self.console.print(head)
        self.console.print(Text(f"          {callback.path}  webhook-id {callback.id}", "dim"))
        if body:
            self.console.print(JSON(json.dumps(body)))
        else:
            self.console.print(callback.body.decode(errors="replace"), markup=False)
        return Answer(self.status)

    def _verdict(self, callback: Callback) -> tuple[str, str]:
        if not self.verifies:
            return "not verified", "yellow"
        return ("verified", "green") if callback.verified else ("WRONG SIGNATURE", "bold red")

    def _remarks(self, callback: Callback, body: dict[str, Any]) -> list[str]:
        self.seen[callback.id] += 1
        remarks = [f"attempt {self.seen[callback.id]}"] if self.seen[callback.id] > 1 else []
        data = body.get("data")
        if isinstance(data, dict) and isinstance(data.get("sequence"), int):
            subject, sequence = str(data.get("sessionId") or data.get("requestId")), data["sequence"]
            if sequence < self.latest.get(subject, 0):
                remarks.append(f"older than sequence {self.latest[subject]}, which came before")
            self.latest[subject] = max(sequence, self.latest.get(subject, 0))
        return remarks


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
