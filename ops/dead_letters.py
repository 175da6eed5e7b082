"""`python -m ops dead-letters`: see what was set aside, send it again, or throw it away. It needs `AMQP_URL` alone."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared import crash_points, logs, settings
from shared.broker.letter_box import LetterBox, open_letter_box
from shared.broker.letters import Letter, redriven
from shared.broker.properties import printable
from shared.errors import CannotRedrive, NotProvisioned, Unavailable
from shared.settings import AmqpUrl
from shared.topology import UNROUTED_QUEUE, WORK_QUEUES, dead_letter_queue

QUEUES: Final = (*(dead_letter_queue(queue.name) for queue in WORK_QUEUES), UNROUTED_QUEUE)
EXIT_UNAVAILABLE: Final = 1
# What is looked at is in hand until the end: more would burden the broker.
LIST_MOST: Final = 1_000
SHOWN_BODY_CHARS: Final = 300
# Reasons that are told one by one; a queue of ten thousand letters has them all alike.
TOLD_MOST: Final = 20

dead_letters = typer.Typer(
    help="Messages that nobody could understand or take: list, show, redrive, drop.", no_args_is_help=True
)


class BrokerSettings(BaseSettings):
    """Where the broker is, with an administrator's login: no process may read these queues."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    amqp_url: AmqpUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which letters; without id and code all."""

    id: str | None = None
    code: str | None = None

    def has(self, letter: Letter) -> bool:
        return self.id in (None, letter.inbound.message.message_id) and self.code in (None, letter.code)


def queue_name(text: str) -> str:
    """Return the name of a queue of dead letters; that of the queue it belongs to will do."""
    name = text if text in QUEUES else dead_letter_queue(text)
    if name not in QUEUES:
        raise typer.BadParameter(f"must be one of {', '.join(QUEUES)}")
    return name


def _chosen(id: str | None, code: str | None, everything: bool) -> Chosen:
    if (id is not None) + (code is not None) + everything != 1:
        raise typer.BadParameter("Name exactly one of --id, --code and --all.")
    return Chosen(id=id, code=code)


QueueName = Annotated[str, typer.Argument(metavar="QUEUE", parser=queue_name, help="As `list` names it.")]
Id = Annotated[str | None, typer.Option("--id", help="The message_id.")]
Code = Annotated[str | None, typer.Option("--code", help="All of this code, as `list` names it.")]
Everything = Annotated[bool, typer.Option("--all", help="All that are there now.")]


@dead_letters.command("list")
def list_letters(
    limit: Annotated[int, typer.Option(min=1, help="How many of each queue to look at.")] = LIST_MOST,
) -> None:
    """Count the dead letters by queue and code. They stay where they are."""
    raise typer.Exit(_run(lambda url: _list(url, limit)))


@dead_letters.command("show")
def show_letters(
    queue: QueueName,
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
    id: Annotated[str | None, typer.Option("--id", help="This message_id alone, with its whole body.")] = None,
) -> None:
    """Show why letters died, and their bodies. They stay where they are."""
    raise typer.Exit(_run(lambda url: _show(url, queue, limit, Chosen(id=id))))


@dead_letters.command("redrive")
def redrive_letters(
    queue: QueueName,
    id: Id = None,
    code: Code = None,
    everything: Everything = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Publish letters again as they were, to where they were sent, and take each away once the broker has it.

    Do this when the reason is gone: a worker is fixed, a queue is there again. What is applied already is not applied
    again. What cannot go stays, and is told with the reason; the exit status is then 1. What dies again comes back.
    """
    chosen = _chosen(id, code, everything)
    raise typer.Exit(_run(lambda url: _redrive(url, queue, chosen, dry_run)))


@dead_letters.command("drop")
def drop_letters(
    queue: QueueName,
    id: Id = None,
    code: Code = None,
    everything: Everything = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Throw letters away for ever, after a question."""
    chosen = _chosen(id, code, everything)
    raise typer.Exit(_run(lambda url: _drop(url, queue, chosen, yes)))


def _run(work: Callable[[str], Coroutine[Any, Any, int]]) -> int:
    url = settings.load(BrokerSettings).amqp_url.get_secret_value()
    # What the libraries log is told in a line below.
    logs.configure(format="console", level="critical")
    try:
        return asyncio.run(work(url))
    except (NotProvisioned, Unavailable) as error:
        Console(stderr=True, highlight=False).print(f"Broker: {error}", markup=False, style="red", soft_wrap=True)
        return EXIT_UNAVAILABLE


async def _list(url: str, limit: int) -> int:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("queue", "code"):
        table.add_column(name, no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("oldest (UTC)", no_wrap=True)
    cut = []
    for queue in QUEUES:
        counts, oldest = Counter[str](), dict[str, str]()
        async with open_letter_box(url, queue) as box:
            count = await box.count()
            async for letter in box.letters(min(count, limit)):
                counts[letter.code] += 1
                if letter.failed_at:
                    oldest[letter.code] = min(oldest.get(letter.code, letter.failed_at), letter.failed_at)
        for code, number in counts.most_common() or [("", 0)]:
            since = oldest.get(code, "")[:16].replace("T", " ")
            table.add_row(Text(queue), Text(_plain(code)), f"{number:,}", Text(_plain(since)))
        if count > limit:
            cut.append(f"{queue}: {limit:,} of {count:,} looked at; more with --limit")
    console = Console(highlight=False)
    console.print(table)
    for line in cut:
        console.print(line, style="yellow", soft_wrap=True)
    return 0


async def _show(url: str, queue: str, limit: int, chosen: Chosen) -> int:
    console, shown = Console(highlight=False), 0
    async with open_letter_box(url, queue) as box:
        count = await box.count()
        async for letter in box.letters(count):
            if chosen.has(letter):
                _print(console, letter, is_whole=chosen.id is not None)
                shown += 1
            if shown == limit:
                break
    if chosen.id is not None and not shown:
        return _none(queue, chosen)
    console.print(f"{shown:,} of {count:,} in {queue}", style="dim")
    return 0


def _print(console: Console, letter: Letter, *, is_whole: bool) -> None:
    message = letter.inbound.message
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in (
        ("message_id", message.message_id or "none"),
        ("type", message.type or letter.routing_key),
        ("code", letter.code),
        ("detail", letter.detail),
        ("failed-at", letter.failed_at),
        ("failed-by", letter.failed_by),
        ("sent to", f"{letter.exchange} {letter.routing_key}"),
        ("body", f"{len(message.body):,} bytes"),
    ):
        if value:
            facts.add_row(Text(name, "bold"), Text(_plain(value)))
    console.print(facts)
    body = _plain(message.body.decode(errors="backslashreplace"))
    is_cut = not is_whole and len(body) > SHOWN_BODY_CHARS
    console.print(f"{body[:SHOWN_BODY_CHARS]}… (whole with --id)" if is_cut else body, markup=False, soft_wrap=True)
    console.print()


async def _redrive(url: str, queue: str, chosen: Chosen, dry_run: bool) -> int:
    gone, stayed = 0, Counter[str]()
    try:
        async with open_letter_box(url, queue) as box:
            async for letter in _those(box, chosen):
                try:
                    outgoing = redriven(letter, queue, looked_at=chosen.id is not None)
                    if not dry_run:
                        await box.publish(outgoing)
                        crash_points.reach("ops.between_confirm_and_ack")
                        await box.remove(letter.inbound.delivery_tag)
                    gone += 1
                except CannotRedrive as error:
                    stayed[str(error)] += 1
    finally:
        console = Console(highlight=False)
        console.print(f"{gone:,} of {queue} {'would be' if dry_run else 'were'} redriven.", soft_wrap=True)
        for reason, number in stayed.most_common(TOLD_MOST):
            console.print(f"{number:,} stay: {_plain(reason)}", markup=False, style="yellow", soft_wrap=True)
    if chosen.id is not None and not gone and not stayed:
        return _none(queue, chosen)
    return EXIT_UNAVAILABLE if stayed else 0


async def _drop(url: str, queue: str, chosen: Chosen, yes: bool) -> int:
    async with open_letter_box(url, queue) as box:
        tags = [letter.inbound.delivery_tag async for letter in _those(box, chosen)]
        if chosen.id is not None and not tags:
            return _none(queue, chosen)
        if tags and not yes and not await _agrees(f"Throw away {len(tags):,} of {queue} for ever?"):
            tags = []
        for tag in tags:
            await box.remove(tag)
    Console(highlight=False).print(f"{len(tags):,} of {queue} were thrown away.", soft_wrap=True)
    return 0


async def _agrees(question: str) -> bool:
    """Ask in a thread of its own: meanwhile the connection must answer, and Ctrl-C must not wait for a person."""
    loop = asyncio.get_running_loop()
    said: asyncio.Future[bool] = loop.create_future()

    def ask() -> None:
        try:
            answer = typer.confirm(question, err=True)
        except typer.Abort:
            answer = False
        loop.call_soon_threadsafe(said.set_result, answer)

    threading.Thread(target=ask, daemon=True).start()
    return await said


async def _those(box: LetterBox, chosen: Chosen) -> AsyncIterator[Letter]:
    """The chosen ones among those that are there at the start: what dies again comes back behind them."""
    async for letter in box.letters(await box.count()):
        if chosen.has(letter):
            yield letter


def _none(queue: str, chosen: Chosen) -> int:
    told = f"There is no {chosen.id} in {queue}."
    Console(stderr=True, highlight=False).print(told, markup=False, style="red", soft_wrap=True)
    return EXIT_UNAVAILABLE


def _plain(text: str) -> str:
    """Text that cannot steer a terminal: a sender wrote it."""
    kept = (each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in printable(text))
    return "".join(kept)
