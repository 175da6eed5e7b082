"""The bench: its commands stand, and what it computes from latencies is right. Its figures are nobody's test."""

import subprocess
import sys
from itertools import pairwise

from bench.authorization import State, _percentile_ms
from bench.history import _chunks
from tests.servers import REPOSITORY


def test_the_commands_are_told_by_help() -> None:
    """`python -m bench` alone still measures throughput: no command is required."""
    ran = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "authorization" in ran.stdout
    assert "history" in ran.stdout
    assert "isolation" in ran.stdout
    assert "retention" in ran.stdout
    assert "COMMAND [ARGS]..." in ran.stdout


def test_a_percentile_is_the_median_of_the_rounds() -> None:
    """One stall of the machine is not the product's."""
    rounds = ([0.001] * 100, [0.002] * 100, [9.0] * 100)
    latencies = {(number, State.HANGS, "stop"): taken for number, taken in enumerate(rounds)}
    assert _percentile_ms(latencies, State.HANGS, "stop", 99, 3) == 2.0


def test_the_chunks_of_a_load_are_all_of_its_rows() -> None:
    chunks = list(_chunks(1_200_001))
    assert chunks[0][0] == 1
    assert chunks[-1][1] == 1_200_001
    assert all(after[0] == before[1] + 1 for before, after in pairwise(chunks))
