"""`python -m gateway`: one process, or one that keeps several running."""

import asyncio
import socket

from gateway.app import create_app
from gateway.database import Database
from gateway.ocpi import Party
from gateway.processes import drain_with_parent, run_processes
from gateway.server import serve
from gateway.settings import GatewaySettings
from gateway.webhooks import webhooks_of
from shared.broker.publisher import Publisher
from shared.listening import listen
from shared.process import run
from shared.settings import load
from shared.topology import COMMANDS


def main() -> None:
    settings = load(GatewaySettings)
    secret = settings.stripe_webhook_secret
    is_child = bool(settings.gateway_listening_fds)
    if is_child:
        sockets = [socket.socket(fileno=fd) for fd in settings.gateway_listening_fds]
    else:
        host, port = settings.gateway_host, settings.gateway_port
        sockets = listen(host, port, host_variable="GATEWAY_HOST", port_variable="GATEWAY_PORT")

    async def serve_one(drain: asyncio.Event) -> None:
        if is_child:
            drain_with_parent(drain)
        app = create_app(
            publisher=Publisher(settings.amqp_url.get_secret_value(), name="gateway", probes=COMMANDS),
            database=Database(settings.database_url.get_secret_value()),
            keys=settings.api_keys,
            party=Party(settings.ocpi_country_code, settings.ocpi_party_id),
            webhooks=webhooks_of(settings.payment_provider, secret.get_secret_value() if secret else None),
            drain=drain,
        )
        await serve(app, sockets, drain)

    async def serve_many(drain: asyncio.Event) -> None:
        await run_processes(settings.gateway_processes, [each.fileno() for each in sockets], drain)

    is_parent = settings.gateway_processes > 1 and not is_child
    run(settings, serve_many if is_parent else serve_one, name="gateway")


if __name__ == "__main__":
    main()
