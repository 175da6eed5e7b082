"""What an error of the database says: an outage passes by itself, a fault of the message does not."""

import asyncpg
import pytest

from shared.database import is_data_fault, is_outage


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.TooManyConnectionsError("no slot left"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.ConnectionDoesNotExistError("lost"),
        asyncpg.DiskFullError("no space left"),
        ConnectionRefusedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_driver_raises_while_connecting_is_an_outage(error: BaseException) -> None:
    """None of them may ever make a dead letter of a good message, whatever a ping then says."""
    assert is_outage(error)
    assert not is_data_fault(error)


@pytest.mark.parametrize(
    "error", [asyncpg.CheckViolationError("no"), asyncpg.InvalidTextRepresentationError("no"), ValueError("no")]
)
def test_what_the_values_bring_about_is_none(error: BaseException) -> None:
    assert not is_outage(error)
