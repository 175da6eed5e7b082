"""What may be taken when, what one ack covers, and how messages that nobody settles show."""

import random

from shared.broker.hold import STUCK_AFTER_S, SUSPECT_AFTER_DELIVERIES, Hold
from shared.messages import Inbound
from tests.builders import inbound


def came(tag: int, *, deliveries: int = 0) -> Inbound:
    headers = {"x-delivery-count": deliveries} if deliveries else {}
    return inbound(b"{}", delivery_tag=tag, redelivered=deliveries > 0, message={"headers": headers})


def holding(*deliveries: int) -> Hold:
    """Messages with tags from 1 on, delivered so often before."""
    hold = Hold()
    for tag, count in enumerate(deliveries, 1):
        hold.arrived(came(tag, deliveries=count), 0)
    return hold


def tags(taken: tuple[Inbound, ...]) -> list[int]:
    return [each.delivery_tag for each in taken]


def test_what_came_back_often_waits_until_all_else_is_settled() -> None:
    """A few restarts are no sign yet."""
    hold = holding(0, SUSPECT_AFTER_DELIVERIES, SUSPECT_AFTER_DELIVERIES - 1)
    assert not hold.is_quiet
    assert tags(hold.take(10)) == [1, 3]
    assert (hold.has_ready, hold.suspect_count, hold.is_quiet) == (False, 1, False)
    hold.settled([1, 3], 0)
    assert hold.is_quiet
    assert hold.release(5, random.Random(1)) == 1
    assert (hold.suspect_count, hold.is_quiet, tags(hold.take(10))) == (0, False, [2])
    hold.settled([2], 0)
    assert hold.is_quiet


def test_one_ack_by_prefix_does_where_nothing_before_it_is_unsettled() -> None:
    hold = holding(0, SUSPECT_AFTER_DELIVERIES, 0, 0)
    assert hold.covers_all_before([1])
    assert not hold.covers_all_before([1, 3])
    hold.settled([1, 3, 4], 0)
    assert hold.covers_all_before([2])


def test_a_partner_cannot_make_its_message_a_suspect() -> None:
    """Only the broker counts, and only what was redelivered has a count; other types mean nothing."""
    for redelivered, count in ((True, "9"), (True, None), (True, [9]), (True, -1), (False, 9)):
        hold = Hold()
        hold.arrived(inbound(b"{}", redelivered=redelivered, message={"headers": {"x-delivery-count": count}}), 0)
        assert hold.has_ready


def test_messages_that_nobody_settles_are_a_fault() -> None:
    """Whatever has become of them inside."""
    hold = Hold()
    assert hold.fault(1000) is None
    hold.arrived(came(1), 1000)
    hold.arrived(came(2), 1010)
    assert hold.fault(1000 + STUCK_AFTER_S) is None
    assert hold.fault(1001 + STUCK_AFTER_S) == "2 messages held, none settled for 21 s"
    hold.settled([1], 1021)
    assert hold.fault(1022) is None
    assert hold.fault(1022 + STUCK_AFTER_S) == "1 messages held, none settled for 21 s"
    hold.settled([2], 1042)
    assert hold.fault(9000) is None


def test_a_consumer_with_nothing_to_do_is_no_fault_and_its_next_message_has_its_time() -> None:
    hold = Hold()
    hold.arrived(came(1), 0)
    hold.settled([1], 1)
    hold.arrived(came(2), 5000)
    assert hold.fault(5001) is None
