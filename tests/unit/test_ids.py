"""Identifiers: ordered where they are new, equal where the input is equal."""

import time
from datetime import UTC, datetime
from uuid import RFC_4122

from shared.ids import idempotent_id, uuid7


def test_a_new_id_is_a_uuid_of_version_7_that_begins_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    value = uuid7()
    after = time.time_ns() // 1_000_000
    assert (value.version, value.variant) == (7, RFC_4122)
    assert before <= value.int >> 80 <= after


def test_an_id_may_begin_with_another_time_than_this_hosts() -> None:
    """The database's."""
    at = datetime(2026, 5, 4, 12, 0, 0, 7000, tzinfo=UTC)
    assert uuid7(at).int >> 80 == round(at.timestamp() * 1000)


def test_new_ids_are_distinct() -> None:
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_an_idempotency_key_always_stands_for_the_same_id_of_its_client() -> None:
    assert idempotent_id("app", "key") == idempotent_id("app", "key")
    assert idempotent_id("app", "key") != idempotent_id("other", "key")
