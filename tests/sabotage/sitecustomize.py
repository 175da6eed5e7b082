"""Breaks a process from inside, for tests: Python imports this at the start where its folder is on PYTHONPATH.

SABOTAGE names a folder. Its file `plan.json` says which coroutine functions to break, as `module:Class.method`, and
how; each is broken only while the folder has a file of that name. SABOTAGE_HASTE lets liveness' clocks run faster.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

POLL_S = 0.02


def main() -> None:
    """Break what the plan names."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    folder = Path(os.environ["SABOTAGE"])
    if haste := float(os.environ.get("SABOTAGE_HASTE", "0")):
        hasten(haste)
    for path, how in json.loads((folder / "plan.json").read_text()).items():
        module, _, names = path.partition(":")
        *owners, name = names.split(".")
        owner: Any = import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        if isinstance(how, str):
            setattr(owner, name, broken(getattr(owner, name), folder / path, how))
        else:  # a constant
            setattr(owner, name, how)


def hasten(factor: float) -> None:
    """Let what seems stuck after 20 s seem so after 20 s / factor."""
    from shared import loops  # noqa: PLC0415 - the path is set now
    from shared.broker import consumer  # noqa: PLC0415

    owners: tuple[tuple[dict[str, Any], str], ...] = (
        (loops.Turns.__init__.__kwdefaults__ or {}, "now_s"),
        (vars(consumer), "_now_s"),
    )
    for owner, name in owners:
        owner[name] = hastened(owner[name], factor)


def hastened(clock: Callable[[], float], factor: float) -> Callable[[], float]:
    return lambda: clock() * factor


def broken(original: Callable[..., Awaitable[Any]], flag: Path, how: str) -> Callable[..., Awaitable[Any]]:
    """Return the function with its sabotage."""

    @wraps(original)
    async def replaced(*arguments: Any, **named: Any) -> Any:
        if is_on(flag):
            await asyncio.sleep(POLL_S)
            match how:
                case "raises":
                    raise RuntimeError("sabotage")
                case "returns":
                    return None
                case "is cancelled":
                    raise asyncio.CancelledError
                case "hangs" | "clings":
                    await hang(flag, clings=how == "clings")
        return await original(*arguments, **named)

    return replaced


def is_on(flag: Path) -> bool:
    return flag.exists()


async def hang(flag: Path, *, clings: bool) -> None:
    """Hang while the file is there; what clings does not heed its cancellation."""
    while is_on(flag):
        try:
            await asyncio.sleep(POLL_S)
        except asyncio.CancelledError:
            if not clings:
                raise


if "SABOTAGE" in os.environ:
    main()
