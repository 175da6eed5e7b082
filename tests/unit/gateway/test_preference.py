"""`Prefer: wait=N`, as RFC 7240 has it: what is understood, and what is passed over."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.preference import MAX_PREFER_BYTES, MOST_WAIT_S, preferred_wait_s


def wait_of(*values: bytes) -> int:
    return preferred_wait_s([(b"accept", b"wait=9"), *((b"prefer", value) for value in values)])


@pytest.mark.parametrize(
    ("values", "wait_s"),
    [
        ([b"wait=10"], 10),
        ([b"WAIT = 10"], 10),
        ([b'wait="10"'], 10),
        ([b"wait=0"], 0),
        ([b"wait=007"], 7),
        ([b"wait=31"], MOST_WAIT_S),
        ([b"wait=" + b"9" * 100], MOST_WAIT_S),
        ([b"respond-async, wait=10"], 10),
        ([b"respond-async", b"wait=10"], 10),
        ([b"wait=10; foo=bar; x"], 10),
        ([b'note="a, wait=3", wait=10'], 10),
        ([b'note="\\", wait=3", wait=10'], 10),
        ([b"wait=10, wait=20"], 10),
        ([b", ,wait=10,"], 10),
        ([b"handling=lenient; wait=5, wait=4"], 4),
    ],
)
def test_the_first_wait_of_the_list_counts(values: list[bytes], wait_s: int) -> None:
    """One list over all headers, case-insensitive names, quoted values, parameters that nobody knows."""
    assert wait_of(*values) == wait_s


@pytest.mark.parametrize(
    "value",
    [
        b"", b"wait", b"wait=", b"wait=x", b"wait=-1", b"wait=1.5", b"wait=1 2", b"await=5", b"waiting=5", b"x=wait=5",
        b"wait=x, wait=5", b'"wait=5', b"wait\x00=5", b"\xff", b"wait=\xb2", b"respond-async",
    ],
)  # fmt: skip
def test_garbage_is_no_preference(value: bytes) -> None:
    """It is ignored, never a 400; a first `wait` that makes no sense hides those after it."""
    assert wait_of(value) == 0


def test_no_header_is_no_wait() -> None:
    assert wait_of() == 0


@given(value=st.binary(max_size=600))
def test_any_bytes_are_a_bounded_number_of_seconds(value: bytes) -> None:
    assert 0 <= wait_of(value) <= MOST_WAIT_S


def test_a_hostile_header_costs_nothing() -> None:
    """Quotes that never close make the pattern look far: a long header is not looked at."""
    began = time.process_time()
    assert wait_of(b'"\\' * (MAX_PREFER_BYTES // 2)) == 0
    assert wait_of(b'"\\' * 30_000 + b", wait=5") == 0
    assert time.process_time() - began < 0.1
