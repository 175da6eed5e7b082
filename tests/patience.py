"""A gateway that waits for a slow disk: for tests of what it acknowledges, not of how soon it gives up."""

from typing import Any

from tests.servers import REPOSITORY

SABOTAGE = REPOSITORY / "tests" / "sabotage"
# What a gateway starts with: it gives the broker's confirm 20 s, and its first connection as well.
PATIENT: dict[str, Any] = {"PYTHONPATH": str(SABOTAGE), "SABOTAGE": str(SABOTAGE / "patient_gateway")}
# A caller's wait for an outcome, 30 s at the most, begins after the confirm.
PATIENT_CLIENT_S = 60
