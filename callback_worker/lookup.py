"""DNS: the addresses of a name, within a deadline, without one slow name holding up the others.

The event loop's own resolver shares four threads among all names; here they are many, and each name has one at a time.
"""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

# Two tries of a healthy resolver; a name that takes longer fails this attempt.
DNS_TIMEOUT_S = 2.0
# A dead name server keeps a thread for its own 5 to 30 s; so many names may do that at once.
THREADS = 64


class Lookup:
    """A resolver's lifetime."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="dns")
        self._running: dict[tuple[str, int], asyncio.Future[tuple[str, ...]]] = {}

    def close(self) -> None:
        """Take no more; running lookups end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return all addresses, as text. Raises OSError, or TimeoutError where there is no answer in time."""
        key = (host, port)
        running = self._running.get(key)
        if running is None:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._threads, _getaddrinfo, host, port)
            self._running[key] = running
            running.add_done_callback(lambda ended: self._ended(key, ended))
        try:
            async with asyncio.timeout(DNS_TIMEOUT_S):
                # Shielded: one attempt that gives up must not cancel the lookup for its neighbours.
                return await asyncio.shield(running)
        except TimeoutError as error:
            raise TimeoutError(f"no answer from DNS within {DNS_TIMEOUT_S:g} s") from error

    def _ended(self, key: tuple[str, int], ended: "asyncio.Future[tuple[str, ...]]") -> None:
        del self._running[key]
        if not ended.cancelled():
            ended.exception()  # seen, also where nobody waits any more


def _getaddrinfo(host: str, port: int) -> tuple[str, ...]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that IDNA cannot encode
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
    return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))
