"""The place where it all happens: private servers, a house, a proxy on every link, the crew, a receiver."""

import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.local_stack import Server, Servers
from ops.local_stack.processes import Name
from ops.receiver import Answer, Callback, Receiver
from tests.faults.broker import Broker
from tests.faults.crew import Crew
from tests.faults.database import Database
from tests.faults.partner import Partner
from tests.proxy import Proxy
from tests.servers import House, fresh_house, open_servers, provision, with_logins

SIGNING_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ENVIRONMENT = {
    "CALLBACK_SIGNING_KEYS": SIGNING_KEY,
    "CALLBACK_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
    # A crashed attempt is taken over when its lease ends, 10 s after this.
    "CALLBACK_TIMEOUT_S": "3",
    "CALLBACK_RETRY_SCHEDULE_S": "0,0.5,0.5,1,1,2,2,4,4,8,8,15,15,30,30",
    # A provider without money; only sessions with a cost have anything to do with it.
    "PAYMENT_PROVIDER": "sandbox",
}
# A subscriber thinks a little, so that attempts are in hand when something dies.
THINKING_MOST_S = 0.05


@dataclass(frozen=True)
class Site:
    """Everything that a fault may lay hands on. `links` are the proxies, by process and server.

    `chance` is seeded anew for each row.
    """

    servers: Servers
    house: House
    logins: Mapping[Name, Mapping[str, str]]
    links: Mapping[tuple[Name, Server], Proxy]
    subscriber_link: Proxy
    receiver: Receiver
    crew: Crew
    broker: Broker
    database: Database
    partner: Partner
    chance: random.Random
    by_path: dict[str, list[Callback]] = field(default_factory=dict)

    def callback_url(self, name: str) -> str:
        """Where the callbacks of one row go."""
        return f"{self.subscriber_link.url}/{name}"

    def callbacks(self, name: str) -> list[Callback]:
        """What the receiver got for one row."""
        new, self.receiver.callbacks[:] = list(self.receiver.callbacks), []
        for callback in new:
            self.by_path.setdefault(callback.path, []).append(callback)
        return self.by_path.get(f"/{name}", [])

    def provision(self) -> None:
        """As an operator would, once more."""
        provision(self.house)


Opened = tuple[Servers, House, Mapping[Name, Mapping[str, str]]]


@contextmanager
def open_house() -> Iterator[Opened]:
    """Servers, a house and a login for each process. It runs beside no event loop."""
    with open_servers() as servers, fresh_house(servers, "faults", provisioned=False) as house:
        yield servers, house, with_logins(house)


@asynccontextmanager
async def open_site(opened: Opened, folder: Path) -> AsyncIterator[Site]:
    """The whole product, running; its logs go to `folder`."""
    servers, house, logins = opened
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(Receiver(SIGNING_KEY))
        receiver.answer = lambda _: Answer(delay_s=random.random() * THINKING_MOST_S)
        links: dict[tuple[Name, Server], Proxy] = {}
        own: dict[Name, dict[str, str]] = {}
        for name in Name:
            own[name] = {}
            for server, variable in ((Server.RABBITMQ, "AMQP_URL"), (Server.POSTGRES, "DATABASE_URL")):
                link = await stack.enter_async_context(Proxy(logins[name][variable]))
                links[name, server], own[name][variable] = link, link.url
        subscriber_link = await stack.enter_async_context(Proxy(receiver.url().rstrip("/")))
        crew = Crew(ENVIRONMENT, folder, own)
        stack.push_async_callback(crew.close)
        partner = Partner(house.amqp_url)
        stack.push_async_callback(partner.close)
        await crew.start()
        yield Site(
            servers=servers,
            house=house,
            logins=logins,
            links=links,
            subscriber_link=subscriber_link,
            receiver=receiver,
            crew=crew,
            broker=Broker(servers, house.name, house.amqp_url),
            database=Database(house.database_url),
            partner=partner,
            chance=random.Random(),
        )


async def versions(site: Site) -> dict[str, Any]:
    """What the run was made on."""
    facts = await site.broker.overview()
    return {
        "RabbitMQ": facts["rabbitmq_version"],
        "Erlang": facts["erlang_version"],
        "PostgreSQL": await site.database.value("SHOW server_version"),
    }
