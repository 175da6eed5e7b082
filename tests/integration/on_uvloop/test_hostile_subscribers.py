"""What a subscriber may say to an attempt, on uvloop."""

from tests.integration.test_hostile_subscribers import *  # noqa: F403
