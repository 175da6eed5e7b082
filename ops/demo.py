"""`python -m ops demo`: the product doing its job on a real broker and a real database, and the proof in figures.

Starts everything itself, in Docker or from installed servers, unless it is pointed at a gateway that runs already.
"""

import asyncio
import os

import asyncpg
import httpx
from rich.console import Console

from ops import demo_screen as screen
from ops.demo_load import REQUEST_COUNT, run_load
from ops.demo_story import DemoFailed, Scene, tell
from ops.local_stack import Kind, WrongSetting, compose, kind
from ops.local_stack.stack import Stack, on_installed_stack
from ops.receiver import Receiver

# The gateway answers 503 within 2 s when it cannot acknowledge; this is beyond any honest answer.
HTTP_TIMEOUT_S = 10
EXIT_INTERRUPTED = 130


def run(*, against: str | None = None, receiver_host: str = "") -> int:
    """Shows the demo; 0 only when all adds up. Raises `StackError` where it cannot begin."""
    console = screen.new_console()
    try:
        if against is not None:
            return asyncio.run(_against(console, against, receiver_host))
        if kind() is Kind.DOCKER:
            return _in_docker(console)
        return on_installed_stack(console, lambda stack: _on_stack(console, stack))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _in_docker(console: Console) -> int:
    """The stack as containers, and this very program as one more of them, whose receiver the others can reach."""
    networks = os.environ.get("CALLBACK_ALLOWED_NETWORKS") or compose.CONTAINER_NETWORKS
    with compose.running(console, compose.DEMO_PROJECT, CALLBACK_ALLOWED_NETWORKS=networks) as project:
        # Without a terminal of our own, none is asked for.
        terminal = () if console.is_terminal else ("-T",)
        exit_code = project.run("run", "--rm", "--no-deps", "--use-aliases", *terminal, "demo")
        if exit_code != 0:
            project.run("logs", "--tail", "40")
    return exit_code


async def _against(console: Console, gateway_url: str, receiver_host: str) -> int:
    try:
        database_url, signing_key = os.environ["DATABASE_URL"], os.environ["CALLBACK_SIGNING_KEYS"].split(",")[0]
    except KeyError as missing:
        raise WrongSetting(f"with --against, the demo needs {missing.args[0]} of that stack") from None
    return await _show(console, gateway_url, database_url, signing_key, receiver_host)


async def _on_stack(console: Console, stack: Stack) -> int:
    exit_code = await _show(console, stack.gateway_url, stack.database_url, stack.signing_key)
    if exit_code != 0:
        for name, tail in stack.processes.log_tails().items():
            console.rule(name, align="left")
            console.out(tail, highlight=False)
    return exit_code


async def _show(
    console: Console, gateway_url: str, database_url: str, signing_key: str, receiver_host: str = ""
) -> int:
    receiver = Receiver(signing_key)
    # A receiver with a name of its own is on another host than the callback worker.
    host = "0.0.0.0" if receiver_host else "127.0.0.1"  # noqa: S104 - asked for by that name
    await receiver.open(host, public_host=receiver_host or None)
    try:
        database = await asyncpg.connect(database_url, timeout=HTTP_TIMEOUT_S)
        try:
            async with httpx.AsyncClient(base_url=gateway_url, timeout=HTTP_TIMEOUT_S, trust_env=False) as gateway:
                return await _play(Scene(console, gateway, database, receiver))
        finally:
            await database.close()
    finally:
        await receiver.close()


async def _play(scene: Scene) -> int:
    try:
        await tell(scene)
        screen.show_title(scene.console, 6, f"{REQUEST_COUNT:,} requests at once")
        sums = await run_load(scene)
    except (DemoFailed, httpx.HTTPError, ExceptionGroup) as failure:
        cause = _first_of(failure)
        if not isinstance(cause, DemoFailed | httpx.HTTPError):
            raise
        text = str(cause) if isinstance(cause, DemoFailed) else f"the gateway broke off: {cause!r}"
        scene.console.print(f"\n ✗  {text}\n", style="red", markup=False)
        return 1
    screen.show_sums(scene.console, sums.texts(), all_add_up=sums.all_add_up)
    return 0 if sums.all_add_up else 1


def _first_of(failure: BaseException) -> BaseException:
    """The first failure itself, out of the groups that concurrent tasks wrap around it."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
