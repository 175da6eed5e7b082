"""Lanes: rows run side by side, each lane in a process of its own, with servers and a crew that no other lane touches.

All lanes take their rows from one list. What breaks in a lane is felt in that lane alone.
"""

import asyncio
import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import uvloop

from ops.local_stack import Kind, StackError, kind
from ops.local_stack.binaries import find_or_install
from ops.local_stack.program import die_with_parent, end_on_sigterm
from tests.faults.findings import Findings
from tests.faults.row import Fault, Result, run_row
from tests.faults.site import Opened, Site, open_house, open_site, versions

log = logging.getLogger(__name__)

POLL_S = 0.05


@dataclass(frozen=True)
class Turn:
    """One row to run: which of the faults, and with which seed."""

    number: int
    index: int
    seed: int


@dataclass(frozen=True)
class Free:
    """A lane asks for its next row."""


@dataclass(frozen=True)
class Broken:
    """A lane ends before its time."""

    reason: str


@dataclass
class Run:
    """What all lanes did."""

    results: list[Result] = field(default_factory=list)
    versions: Mapping[str, Any] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Way:
    """How every lane runs its rows. Its logs go to a folder of its own under `folder`."""

    faults: Sequence[Fault]
    folder: Path
    settle_s: float


@dataclass
class _Lane:
    """The parent's side of one lane."""

    name: str
    process: multiprocessing.process.BaseProcess
    channel: Connection
    in_hand: dict[int, Turn] = field(default_factory=dict)


def run_lanes(way: Way, turns: Iterator[Turn], *, count: int, tell: Callable[[Result], None]) -> Run:
    """Run every turn in one of the lanes; `tell` hears of each row as soon as it is audited."""
    if kind() is Kind.INSTALLED:
        find_or_install(print)  # once, not in every lane
    done = Run()
    lanes = [_start(way, f"lane-{number + 1}") for number in range(count)]
    try:
        while lanes:
            for channel in wait([lane.channel for lane in lanes]):
                lane = next(lane for lane in lanes if lane.channel is channel)
                if not _serve(lane, turns, done, way, tell):
                    lanes.remove(lane)
                    lane.process.join()
    finally:
        for lane in lanes:
            lane.channel.close()
            lane.process.join()
    done.results.sort(key=lambda result: result.number)
    return done


def _start(way: Way, name: str) -> _Lane:
    # Forked, so that a lane has the faults themselves: no closure goes over a pipe.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_lane, args=(way, name, theirs))
    process.start()
    theirs.close()
    return _Lane(name, process, ours)


def _serve(lane: _Lane, turns: Iterator[Turn], done: Run, way: Way, tell: Callable[[Result], None]) -> bool:
    """Hear one word of a lane; return whether more may come."""
    try:
        said = lane.channel.recv()
    except EOFError:
        for turn in lane.in_hand.values():
            lost = Result(turn.number, way.faults[turn.index].name, turn.seed, troubles=["its lane ended"])
            done.results.append(lost)
            tell(lost)
        return False
    match said:
        case Free():
            following = next(turns, None)
            if following is not None:
                lane.in_hand[following.number] = following
            lane.channel.send(following)
        case Result():
            del lane.in_hand[said.number]
            done.results.append(said)
            tell(said)
        case Broken():
            done.troubles.append(f"{lane.name}: {said.reason}")
        case _:
            done.versions = said
    return True


def _lane(way: Way, name: str, channel: Connection) -> None:
    """A lane's whole life."""
    if (ask_kernel := die_with_parent(signal.SIGTERM)) is not None:
        ask_kernel()
    end_on_sigterm()
    folder = way.folder / name
    folder.mkdir()
    # What libraries say of connections that were broken on purpose is for whoever asks, not for the terminal.
    logging.basicConfig(
        filename=folder / "rig.log", level=logging.WARNING, format="%(asctime)s %(name)s %(message)s", force=True
    )
    logging.captureWarnings(True)
    try:
        with open_house() as house, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_work(way, folder, channel, house))
    except KeyboardInterrupt:
        pass
    except StackError as error:
        channel.send(Broken(str(error)))
    except Exception as error:  # the lane's edge: its parent tells
        log.exception("the lane breaks")
        channel.send(Broken(f"{type(error).__name__}: {error}"))


async def _work(way: Way, folder: Path, channel: Connection, house: Opened) -> None:
    async with open_site(house, folder) as site:
        channel.send(await versions(site))
        async with asyncio.TaskGroup() as audits:
            waiting: set[asyncio.Task[None]] = set()
            while (turn := await _next(channel)) is not None:
                fault = way.faults[turn.index]
                if fault.is_alone and waiting:
                    await asyncio.wait(waiting)
                result = Result(turn.number, fault.name, turn.seed)
                task = audits.create_task(_report(result, await _run(site, fault, result, way), channel))
                waiting.add(task)
                task.add_done_callback(waiting.discard)


async def _run(site: Site, fault: Fault, result: Result, way: Way) -> "asyncio.Task[Findings] | None":
    try:
        return await run_row(site, fault, result, settle_s=way.settle_s)
    except Exception as error:  # a row that breaks is a failed row; the others run all the same
        log.exception("row %d broke", result.number)
        result.troubles.append(f"{type(error).__name__}: {error}")
        return None


async def _next(channel: Connection) -> Turn | None:
    channel.send(Free())
    while not channel.poll():
        await asyncio.sleep(POLL_S)
    turn: Turn | None = channel.recv()
    return turn


async def _report(result: Result, auditing: "asyncio.Task[Findings] | None", channel: Connection) -> None:
    try:
        if auditing is not None:
            result.findings = await auditing
    except Exception as error:  # a row that cannot be audited is a failed row; the others count all the same
        log.exception("row %d cannot be audited", result.number)
        result.troubles.append(f"audit: {type(error).__name__}: {error}")
    channel.send(result)
