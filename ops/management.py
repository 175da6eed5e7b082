"""RabbitMQ's management API as an administrator sees it: one virtual host's definitions, users and their rights."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote

import httpx
from yarl import URL

from ops.logins import Login, Rights

HTTP_TIMEOUT_S = 10.0


class ManagementError(Exception):
    """The management API refused; the text says what and why."""


class Management:
    """The API for one virtual host; each call raises `ManagementError` when it is refused."""

    def __init__(self, client: httpx.AsyncClient, vhost: str) -> None:
        self._client = client
        self._vhost = quote(vhost, safe="")

    async def definitions(self) -> dict[str, list[dict[str, Any]]]:
        """Exchanges, queues and bindings, read at one moment."""
        found = await self._call("GET", f"/api/definitions/{self._vhost}")
        if found is None:
            raise ManagementError(f"there is no virtual host {unquote(self._vhost)}")
        return found

    async def user(self, name: str) -> dict[str, Any] | None:
        """The user's own record, None where there is no such user."""
        return await self._call("GET", f"/api/users/{quote(name, safe='')}")

    async def permissions(self, name: str) -> dict[str, str]:
        """What the user may configure, write and read, as patterns; empty where it has no rights here at all."""
        found = await self._call("GET", self._permissions_path(name)) or {}
        return {kind: pattern for kind, pattern in found.items() if kind in ("configure", "write", "read")}

    async def put_user(self, login: Login) -> None:
        """Makes the user, without any right to the management API itself."""
        await self._call("PUT", f"/api/users/{quote(login.name, safe='')}", {"password": login.password, "tags": ""})

    async def put_permissions(self, name: str, permissions: dict[str, str]) -> None:
        """Gives the user these patterns in place of what it had."""
        await self._call("PUT", self._permissions_path(name), permissions)

    def _permissions_path(self, name: str) -> str:
        return f"/api/permissions/{self._vhost}/{quote(name, safe='')}"

    async def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any] | None:
        """The answer's JSON; None for "there is no such thing", which only a question may be answered with."""
        try:
            response = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ManagementError(f"management API: {type(error).__name__} {error}") from error
        if response.status_code == httpx.codes.NOT_FOUND and method == "GET":
            return None
        if response.is_error:
            raise ManagementError(
                f"management API: {method} {path} answered {response.status_code} {response.text[:200]}"
            )
        found: dict[str, Any] | None = response.json() if response.content else None
        return found


@asynccontextmanager
async def open_management(management_url: str, amqp_url: str) -> AsyncIterator[Management]:
    """The API at `http://user:password@host:15672`, for the virtual host that `amqp_url` names."""
    url = URL(management_url)
    auth = (url.user or "guest", url.password or "guest")
    base = str(url.with_user(None))
    async with httpx.AsyncClient(base_url=base, auth=auth, timeout=HTTP_TIMEOUT_S, trust_env=False) as client:
        yield Management(client, _vhost(amqp_url))


def permissions_of(rights: Rights) -> dict[str, str]:
    """RabbitMQ's three patterns: configure nothing, publish to and consume no more than is needed."""
    return {"configure": "^$", "write": _any_of(rights.publishes_to), "read": _any_of(rights.consumes)}


def _vhost(amqp_url: str) -> str:
    """Return the virtual host as the AMQP client reads it: an empty path is `/`."""
    return URL(amqp_url).path.removeprefix("/").replace("%2F", "/") or "/"


def _any_of(names: tuple[str, ...]) -> str:
    return f"^({'|'.join(re.escape(name) for name in names)})$" if names else "^$"
