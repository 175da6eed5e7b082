"""When a channel that refuses is given up for a new one."""

import itertools

from shared.broker.refusals import FIRST_S, MOST_S, Refusals

FULL = ("charging.commands", "session.start.v1")
FREE = ("charging.commands", "payment.refund.v1")


def test_a_route_that_is_refused_for_some_time_wants_a_new_channel() -> None:
    """Refusals of a moment do not."""
    refusals = Refusals()
    refusals.refused(FULL, 10)
    refusals.refused(FULL, 10 + FIRST_S / 2)
    assert not refusals.want_new_channel(10 + FIRST_S / 2)
    assert refusals.want_new_channel(10 + FIRST_S)


def test_what_is_taken_elsewhere_says_nothing_about_a_full_queue() -> None:
    """The channel goes on taking for queues that have room."""
    refusals = Refusals()
    refusals.refused(FULL, 0)
    refusals.taken(FREE)
    assert refusals.want_new_channel(FIRST_S)


def test_one_message_that_is_taken_ends_the_row() -> None:
    """A queue around its limit refuses some and takes some."""
    refusals = Refusals()
    refusals.refused(FULL, 0)
    refusals.taken(FULL)
    refusals.refused(FULL, FIRST_S)
    assert not refusals.want_new_channel(FIRST_S)


def test_a_new_channel_that_nobody_publishes_on_is_left_alone() -> None:
    """It has refused nothing."""
    refusals = Refusals()
    refusals.refused(FULL, 0)
    refusals.begin_channel()
    assert not refusals.want_new_channel(1000)


def test_a_queue_that_stays_full_costs_a_channel_every_quarter_of_a_minute_in_the_end() -> None:
    """In an hour of refusals at every moment."""
    refusals, opened_at = Refusals(), []
    for second in range(3600):
        refusals.refused(FULL, second)
        if refusals.want_new_channel(second):
            opened_at.append(second)
            refusals.begin_channel()
    waits = [after - before for before, after in itertools.pairwise(opened_at)]
    assert opened_at[0] == FIRST_S
    assert waits == sorted(waits)
    assert waits[-1] in (MOST_S, MOST_S + 1)
