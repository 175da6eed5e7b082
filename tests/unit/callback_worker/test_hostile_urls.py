"""The corpus of hostile URLs: each is refused by the gateway, blocked by the worker, or let through, as it says."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from callback_worker.addresses import AddressPolicy
from callback_worker.destination import Blocked, DestinationPolicy, vet
from shared.fields import CallbackUrl

CORPUS: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "corpora/hostile_urls.json").read_text("utf-8"))
STRICT = DestinationPolicy(AddressPolicy())


def of(*verdicts: str) -> pytest.MarkDecorator:
    rows = [row for row in CORPUS if row["verdict"] in verdicts]
    return pytest.mark.parametrize("row", rows, ids=lambda row: ascii(f"{row['url'][:40]} {row['why']}"))


class Dns:
    """Answers with what the row says, and counts the questions."""

    def __init__(self, row: dict[str, Any]) -> None:
        self._answers: Sequence[str] = row.get("dns", ("93.184.216.34",))
        self.question_count = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.question_count += 1
        return self._answers


@of("syntax")
async def test_what_the_text_alone_tells_is_refused_by_gateway_and_worker_alike(row: dict[str, Any]) -> None:
    """No DNS is asked; the sentence does not repeat the URL."""
    dns = Dns(row)
    with pytest.raises(ValidationError):
        TypeAdapter(CallbackUrl).validate_python(row["url"])
    with pytest.raises(Blocked) as caught:
        await vet(row["url"], STRICT, dns)
    assert dns.question_count == 0
    assert len(row["url"]) < 5 or row["url"] not in str(caught.value)


@of("blocked")
async def test_what_only_address_or_port_tell_is_taken_by_the_gateway_and_blocked_by_the_worker(
    row: dict[str, Any],
) -> None:
    """Every time the attempt is made; the reason tells nothing of any network."""
    TypeAdapter(CallbackUrl).validate_python(row["url"])
    dns = Dns(row)
    with pytest.raises(Blocked) as caught:
        await vet(row["url"], STRICT, dns)
    assert dns.question_count == ("dns" in row)
    assert str(caught.value) in (
        "the host has an address that is not public",
        "the port is none that callbacks go to",
    )


@of("allowed")
async def test_what_is_only_unusual_is_let_through(row: dict[str, Any]) -> None:
    """A filter that refuses real subscribers is switched off some day."""
    TypeAdapter(CallbackUrl).validate_python(row["url"])
    destination = await vet(row["url"], STRICT, Dns(row))
    assert destination.addresses


def test_every_row_has_a_verdict_and_a_reason() -> None:
    """And says nothing twice."""
    assert {row["verdict"] for row in CORPUS} == {"syntax", "blocked", "allowed"}
    assert all(row["why"] and row.keys() <= {"verdict", "url", "why", "dns"} for row in CORPUS)
    seen = [(row["url"], str(row.get("dns"))) for row in CORPUS]
    assert len(seen) == len(set(seen))
