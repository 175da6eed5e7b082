"""The logs that operators list, at any width of their terminal."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console
from rich.table import Table

from ops import callbacks_log, requests_list

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ID = UUID("019e1234-5678-7abc-8def-0123456789ab")
OTHER_ID = UUID("019e1234-5678-7abc-8def-0123456789ac")
URL = "https://subscriber.example/hooks/voltline/[bold]/of-a-client"
CALLBACK: dict[str, Any] = {
    "id": ID, "type": "session.command_rejected.v1", "client": "anonymous", "url": f"{URL}?token=secret",
    "state": "DELIVERED", "reason": None, "attemptCount": 2, "nextAttemptAt": None,
    "createdAt": NOW - timedelta(seconds=90), "deliveredAt": NOW - timedelta(seconds=60),
}  # fmt: skip
PENDING = CALLBACK | {
    "id": OTHER_ID, "state": "PENDING", "deliveredAt": None, "nextAttemptAt": NOW + timedelta(minutes=30),
}  # fmt: skip
REQUEST: dict[str, Any] = {
    "id": ID, "stationId": str(OTHER_ID), "connectorId": "1", "driverId": "a1H_G6H8j1AAR9ZW.0vDJXKtTq2FyL",
    "decision": "not_allowed", "reason": "CONCURRENT_SESSION", "createdAt": NOW, "decidedAt": NOW,
}  # fmt: skip


def lines_of(table: Table, width: int) -> list[str]:
    screen = Console(width=width)
    with screen.capture() as told:
        screen.print(table)
    return told.get().splitlines()


def heads(lines: list[str]) -> set[str]:
    return {head.strip() for head in lines[0].split("  ") if head.strip()}


def column(lines: list[str], name: str) -> str:
    """All that stands under a head, line after line."""
    begin = lines[0].index(f" {name} ") + 1
    end = begin + len(name) + len(lines[0][begin + len(name) :]) - len(lines[0][begin + len(name) :].lstrip())
    return "".join(line[begin:end].strip() for line in lines[1:-1])


@pytest.mark.parametrize("width", [80, 100, 120, 150, 220])
def test_callbacks_are_readable_at_any_width(width: int) -> None:
    """Each id stands whole on one line; of what is folded nothing is lost."""
    lines = lines_of(callbacks_log.table([CALLBACK, PENDING], NOW, width), width)
    assert max(map(len, lines)) <= width
    assert len([line for line in lines if str(ID) in line or str(OTHER_ID) in line]) == 2
    assert {"callback", "type", "url", "state"} <= heads(lines)
    assert (column(lines, "type"), column(lines, "url")) == (2 * CALLBACK["type"], 2 * URL)
    assert not any("secret" in line for line in lines)


def test_wider_terminals_show_more_and_the_widest_all() -> None:
    shown = [
        heads(lines_of(callbacks_log.table([CALLBACK, PENDING], NOW, width), width)) for width in (80, 100, 130, 220)
    ]
    assert shown[0] < shown[1] < shown[2] < shown[3]
    assert len(shown[3]) == 10


def test_what_is_piped_has_one_line_a_callback() -> None:
    width = callbacks_log.PIPED_WIDTH
    assert len(lines_of(callbacks_log.table([CALLBACK, PENDING], NOW, width), width)) == 4


def test_only_what_was_delivered_took_its_time() -> None:
    """What is pending has taken none yet: its age is no duration of a delivery."""
    delivered, pending = lines_of(callbacks_log.table([CALLBACK, PENDING], NOW, 220), 220)[1:3]
    assert delivered.rstrip().endswith("30.00 s")
    assert pending.rstrip().endswith("in 30 min")


@pytest.mark.parametrize("width", [80, 100, 120, 180])
def test_requests_are_readable_at_any_width(width: int) -> None:
    lines = lines_of(requests_list.table([REQUEST], NOW, width), width)
    assert max(map(len, lines)) <= width
    assert [line for line in lines if str(ID) in line and "not_allowed" in line]
    assert {"request", "driver", "decision", "reason"} <= heads(lines)
    assert ("created (UTC)" in heads(lines)) == (width >= 100)


def test_a_listing_counts_its_rows() -> None:
    assert lines_of(callbacks_log.table([CALLBACK], NOW, 80), 80)[-1].strip() == "1 callback"
    assert lines_of(requests_list.table([], NOW, 80), 80)[-1].strip() == "0 requests"
