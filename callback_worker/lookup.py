"""DNS: the addresses of a name, within a deadline, without slow names or domains holding up the others.

The event loop's own resolver shares four threads among all names. Here they are many; each name has one at a time, and
each registered domain a few: whoever owns one makes up as many names as he likes, and a name server that never answers.
They are shared out as attempts are: all domains that are slow together leave some to those that are not.
"""

import asyncio
import math
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from callback_worker.slots import Slots

# Two tries of a healthy resolver; a name that takes longer fails this attempt.
DNS_TIMEOUT_S = 2.0
# A dead name server keeps a thread for its own 5 to 30 s; so many names may do that at once.
THREADS = 64
THREADS_PER_DOMAIN = 8
# Under a country's code, labels as short as this are mostly the country's own: co.uk, com.au.
PUBLIC_LABEL_CHARS = 3


Running = asyncio.Future[tuple[str, ...]]


class Lookup:
    """A resolver's lifetime."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="dns")
        self._slots = Slots(total=THREADS, per_host=THREADS_PER_DOMAIN)
        self._slots.on_free = self._admit
        self._running: dict[tuple[str, int], Running] = {}
        # Those that wait for a thread, in their order, and for which domain.
        self._waiting: dict[asyncio.Future[None], str] = {}

    def close(self) -> None:
        """Take no more; running lookups end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return all addresses, as text. Raises OSError, or TimeoutError where there is no answer in time."""
        key = (host, port)
        try:
            async with asyncio.timeout(DNS_TIMEOUT_S):
                running = self._running.get(key) or await self._begin(key)
                # Shielded: one attempt that gives up must not cancel the lookup for its neighbours.
                return await asyncio.shield(running)
        except TimeoutError as error:
            if key in self._running:  # else it was the others that it had to wait for
                self._slots.note(domain_of(host), math.inf)
            raise TimeoutError(f"no answer from DNS within {DNS_TIMEOUT_S:g} s") from error

    async def _begin(self, key: tuple[str, int]) -> Running:
        """Wait for the domain's turn, then look up in a thread; where a neighbour did so meanwhile, share his."""
        domain = domain_of(key[0])
        await self._turn(domain)
        if (running := self._running.get(key)) is not None:
            self._slots.give_back(domain)
            return running
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        running = loop.run_in_executor(self._threads, _getaddrinfo, *key)
        self._running[key] = running
        running.add_done_callback(lambda ended: self._ended(key, loop.time() - began_s, ended))
        return running

    async def _turn(self, domain: str) -> None:
        """Return with a thread taken for the domain."""
        if self._slots.take(domain):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = domain
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it came in the same moment
                self._slots.give_back(domain)
            raise
        finally:
            self._waiting.pop(turn, None)

    def _admit(self) -> None:
        """Give those who wait their turns, as far as their domains may have one more."""
        for turn, domain in list(self._waiting.items()):
            if not turn.done() and self._slots.take(domain):
                turn.set_result(None)

    def _ended(self, key: tuple[str, int], lasted_s: float, ended: Running) -> None:
        del self._running[key]
        if not ended.cancelled():
            ended.exception()  # seen, also where nobody waits any more
        domain = domain_of(key[0])
        self._slots.note(domain, lasted_s)
        self._slots.give_back(domain)


def domain_of(host: str) -> str:
    """Return what somebody has registered, as far as the name alone tells: two labels, or three as in shop.co.uk."""
    labels = host.rstrip(".").split(".")
    is_country = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= PUBLIC_LABEL_CHARS
    return ".".join(labels[-3:] if is_country else labels[-2:])


def _getaddrinfo(host: str, port: int) -> tuple[str, ...]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that IDNA cannot encode
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
    return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))
