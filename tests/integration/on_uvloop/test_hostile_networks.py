"""Where a subscriber may lead an attempt, on uvloop."""

from tests.integration.test_hostile_networks import *  # noqa: F403
