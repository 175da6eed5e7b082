"""Links between processes and servers: cut, frozen, half open, slow, open in one direction."""

import asyncio
from collections.abc import Callable

from ops.local_stack import Server
from ops.local_stack.processes import Name
from tests.faults.crew import NeverFired
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.site import Site
from tests.proxy import Proxy, Way

FOR_S = 2.5
# Longer than an attempt may take: the subscriber has the callback, and the worker never hears of it.
UNHEARD_FOR_S = 4.0
SLOW_S = 0.15


def broken(
    what: str,
    link_of: Callable[[Site], Proxy],
    act: Callable[[Proxy], None],
    seconds: float = FOR_S,
    *,
    is_long: bool = False,
) -> Fault:
    async def inject(site: Site, _: Load) -> str:
        link = link_of(site)
        before = link.touched
        act(link)
        await asyncio.sleep(seconds)
        link.restore()
        if link.touched == before:
            raise NeverFired("nothing was on the link")
        return f"{link.touched - before} pieces or connections met it"

    return Fault(f"link {what}", inject, is_long=is_long)


def _between(name: Name, server: Server) -> Callable[[Site], Proxy]:
    return lambda site: site.links[name, server]


def _to_subscriber(site: Site) -> Proxy:
    return site.subscriber_link


GATEWAY = _between(Name.GATEWAY, Server.RABBITMQ)
WORKER = _between(Name.SESSION_WORKER, Server.RABBITMQ)
CALLBACKS = _between(Name.CALLBACK_WORKER, Server.RABBITMQ)
WORKER_DATABASE = _between(Name.SESSION_WORKER, Server.POSTGRES)
CALLBACKS_DATABASE = _between(Name.CALLBACK_WORKER, Server.POSTGRES)


def loses(what: str, link_of: Callable[[Site], Proxy], way: Way, *, is_long: bool = False) -> Fault:
    """One direction of every connection is lost; the other goes on."""
    name = f"{what} loses what is sent" if way is Way.THERE else f"{what} loses what comes back"
    return broken(name, link_of, lambda link: link.lose(way), is_long=is_long)


FAULTS = (
    broken("gateway-broker half open", GATEWAY, Proxy.lose),
    broken("gateway-broker without confirms", GATEWAY, lambda link: link.hold(Way.BACK)),
    broken("gateway-broker without publishes", GATEWAY, lambda link: link.hold(Way.THERE)),
    broken("gateway-broker reset", GATEWAY, Proxy.reset, 0.5),
    loses("gateway-broker", GATEWAY, Way.THERE, is_long=True),
    loses("gateway-broker", GATEWAY, Way.BACK, is_long=True),
    broken("session worker-broker frozen", WORKER, Proxy.freeze),
    broken("session worker-broker half open", WORKER, Proxy.lose),
    broken("session worker-broker cut", WORKER, Proxy.cut, is_long=True),
    loses("session worker-broker", WORKER, Way.THERE),
    loses("session worker-broker", WORKER, Way.BACK, is_long=True),
    broken("callback worker-broker half open", CALLBACKS, Proxy.lose),
    loses("callback worker-broker", CALLBACKS, Way.THERE, is_long=True),
    loses("callback worker-broker", CALLBACKS, Way.BACK, is_long=True),
    broken("session worker-database frozen", WORKER_DATABASE, Proxy.freeze),
    broken("session worker-database half open", WORKER_DATABASE, Proxy.lose),
    loses("session worker-database", WORKER_DATABASE, Way.THERE, is_long=True),
    loses("session worker-database", WORKER_DATABASE, Way.BACK, is_long=True),
    broken("session worker-database slow", WORKER_DATABASE, lambda link: link.slow(SLOW_S), is_long=True),
    broken("callback worker-database half open", CALLBACKS_DATABASE, Proxy.lose),
    loses("callback worker-database", CALLBACKS_DATABASE, Way.THERE, is_long=True),
    loses("callback worker-database", CALLBACKS_DATABASE, Way.BACK, is_long=True),
    broken("callback worker-subscriber cut", _to_subscriber, Proxy.cut),
    broken(
        "callback worker-subscriber without answers", _to_subscriber, lambda link: link.hold(Way.BACK), UNHEARD_FOR_S
    ),
)
