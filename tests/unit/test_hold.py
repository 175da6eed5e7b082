"""How much a consumer may hold, and how messages that nobody settles show."""

from shared.broker.hold import STUCK_AFTER_S, SUSPECT_AFTER_DELIVERIES, Hold
from shared.messages import Inbound
from tests.builders import inbound


def came(tag: int, *, deliveries: int = 0) -> Inbound:
    headers = {"x-delivery-count": deliveries} if deliveries else {}
    return inbound(b"{}", delivery_tag=tag, redelivered=deliveries > 0, message={"headers": headers})


def suspect(tag: int) -> Inbound:
    return came(tag, deliveries=SUSPECT_AFTER_DELIVERIES)


def test_it_begins_with_one_and_a_message_that_is_no_suspect_lets_it_have_all() -> None:
    """Also one that came a second time: a restart is no sign yet."""
    for first in (came(1), came(1, deliveries=SUSPECT_AFTER_DELIVERIES - 1)):
        hold = Hold(500)
        assert hold.allowed == 1
        hold.arrived(first, 0)
        assert (hold.grow(), hold.allowed, hold.grow()) == (499, 500, 0)


def test_suspects_that_do_no_harm_double_it() -> None:
    """Each time as many as it may hold are settled."""
    hold, grown, tag = Hold(500), [], 0
    while hold.allowed < 500:
        tag += 1
        hold.arrived(suspect(tag), 0)
        assert hold.grow() == 0
        hold.settled(tag, 0)
        if more := hold.grow():
            grown.append((tag, more))
    assert grown == [(1, 1), (3, 2), (7, 4), (15, 8), (31, 16), (63, 32), (127, 64), (255, 128), (511, 244)]


def test_a_partner_cannot_make_its_message_a_suspect_or_none() -> None:
    """Only the broker counts, and only what was redelivered has a count; other types mean nothing."""
    for odd in ("2", None, [2], -1):
        hold = Hold(10)
        hold.arrived(inbound(b"{}", redelivered=True, message={"headers": {"x-delivery-count": odd}}), 0)
        assert hold.grow() == 9


def test_messages_that_nobody_settles_are_a_fault() -> None:
    """Whatever has become of them inside."""
    hold = Hold(10)
    assert hold.fault(1000) is None
    hold.arrived(came(1), 1000)
    hold.arrived(came(2), 1010)
    assert hold.fault(1000 + STUCK_AFTER_S) is None
    assert hold.fault(1001 + STUCK_AFTER_S) == "2 messages held, none settled for 21 s"
    hold.settled(1, 1021)
    assert hold.fault(1022) is None
    assert hold.fault(1022 + STUCK_AFTER_S) == "1 messages held, none settled for 21 s"
    hold.settled(2, 1042)
    assert hold.fault(9000) is None


def test_a_consumer_with_nothing_to_do_is_no_fault_and_its_next_message_has_its_time() -> None:
    hold = Hold(10)
    hold.arrived(came(1), 0)
    hold.settled(1, 1)
    hold.arrived(came(2), 5000)
    assert hold.fault(5001) is None
