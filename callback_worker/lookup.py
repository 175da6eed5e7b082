"""DNS: the addresses of a name, within a deadline, without one slow name or domain holding up the others.

The event loop's own resolver shares four threads among all names. Here they are many; each name has one at a time, and
each registered domain a few: whoever owns one makes up as many names as he likes, and a name server that never answers.
"""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

# Two tries of a healthy resolver; a name that takes longer fails this attempt.
DNS_TIMEOUT_S = 2.0
# A dead name server keeps a thread for its own 5 to 30 s; so many names may do that at once.
THREADS = 64
THREADS_PER_DOMAIN = 8
# Under a country's code, labels as short as this are mostly the country's own: co.uk, com.au.
PUBLIC_LABEL_CHARS = 3


class Lookup:
    """A resolver's lifetime."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="dns")
        self._running: dict[tuple[str, int], asyncio.Future[tuple[str, ...]]] = {}
        # Kept by those that wait for a turn or have one.
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        """Take no more; running lookups end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return all addresses, as text. Raises OSError, or TimeoutError where there is no answer in time."""
        try:
            async with asyncio.timeout(DNS_TIMEOUT_S):
                running = self._running.get((host, port)) or await self._begin(host, port)
                # Shielded: one attempt that gives up must not cancel the lookup for its neighbours.
                return await asyncio.shield(running)
        except TimeoutError as error:
            raise TimeoutError(f"no answer from DNS within {DNS_TIMEOUT_S:g} s") from error

    async def _begin(self, host: str, port: int) -> "asyncio.Future[tuple[str, ...]]":
        """Wait for the domain's turn, then look up in a thread; where a neighbour did so meanwhile, share his."""
        turns = self._turns.setdefault(domain_of(host), asyncio.Semaphore(THREADS_PER_DOMAIN))
        await turns.acquire()
        key = (host, port)
        if (running := self._running.get(key)) is not None:
            turns.release()
            return running
        running = asyncio.get_running_loop().run_in_executor(self._threads, _getaddrinfo, host, port)
        self._running[key] = running
        running.add_done_callback(lambda ended: self._ended(key, turns, ended))
        return running

    def _ended(self, key: tuple[str, int], turns: asyncio.Semaphore, ended: "asyncio.Future[tuple[str, ...]]") -> None:
        del self._running[key]
        turns.release()
        if not ended.cancelled():
            ended.exception()  # seen, also where nobody waits any more


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
