"""A gateway with a key file: two clients and an operator, each with the secret that its callbacks are signed with."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from ops.local_stack.processes import Process
from shared.signing_keys import parse_key
from tests.conftest import SIGNING_KEY

CLIENTS = {"app": "sessions", "other": "sessions", "desk": "operator"}


def key_file(folder: Path) -> str:
    """Write it and return its path; each client's key is its name, doubled."""
    lines = [f"{name} {hashlib.sha256((name * 2).encode()).hexdigest()} {scope}" for name, scope in CLIENTS.items()]
    path = folder / "keys.txt"
    path.write_text("\n".join(lines))
    return str(path)


def secret_of(client: str) -> str:
    """What `python -m ops callback-secret` prints for the client."""
    return parse_key(SIGNING_KEY).of_client(client).text()


@asynccontextmanager
async def calling_as(client: str, gateway: Process) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client with this client's API key."""
    headers = {"X-API-Key": client * 2}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=40, trust_env=False) as opened:
        yield opened
