"""Slots never exceed either cap, come back, and leave one to whoever has none in flight."""

from hypothesis import given
from hypothesis import strategies as st

from callback_worker.slots import Slots

HOSTS = st.sampled_from("abc")


def may_have(slots: Slots, host: str) -> bool:
    """Whether the host would get a slot now."""
    return slots.free > 0 and slots.taken.get(host, 0) < min(slots.per_host, slots.spare)


@given(st.lists(HOSTS, max_size=60), st.integers(1, 12), st.integers(1, 5))
def test_both_caps_hold_and_every_slot_comes_back(hosts: list[str], total: int, per_host: int) -> None:
    """In all and per host; a host without attempts leaves nothing behind."""
    slots = Slots(total=total, per_host=per_host)
    taken = [host for host in hosts if slots.take(host)]
    assert len(taken) == total - slots.free <= total
    assert max(slots.taken.values(), default=0) <= per_host
    for host in hosts:
        most = min(per_host, max(slots.spare, 1))
        assert taken.count(host) >= most or not slots.free or taken.count(host) == hosts.count(host)
    for host in taken:
        slots.give_back(host)
    assert (slots.free, dict(slots.taken)) == (total, {})


@given(st.lists(HOSTS, max_size=60), st.integers(1, 12), st.integers(1, 5))
def test_whoever_frees_a_slot_that_was_in_the_way_is_heard(hosts: list[str], total: int, per_host: int) -> None:
    """Whatever was refused can be claimed after the next slot that lets it; nobody polls for it."""
    slots = Slots(total=total, per_host=per_host)
    heard: list[None] = []
    slots.on_free = lambda: heard.append(None)
    taken = [host for host in hosts if slots.take(host)]
    for freed in taken:
        refused = [host for host in "abc" if not may_have(slots, host)]
        heard.clear()
        slots.give_back(freed)
        if any(may_have(slots, host) for host in refused):
            assert heard
            break


def test_one_alone_reaches_its_cap_wherever_the_caps_leave_room_for_two() -> None:
    """And where they do not, all."""
    for total, per_host, most in ((40, 20, 20), (200, 20, 20), (20, 20, 20), (2, 20, 2), (30, 20, 20)):
        slots = Slots(total=total, per_host=per_host)
        assert sum(slots.take("a") for _ in range(total)) == most


@given(st.integers(2, 199))
def test_whoever_has_none_in_flight_finds_a_slot_however_many_others_are_slow(others: int) -> None:
    """The default caps would be used up by ten slow hosts; the last ones are for who has fewer in flight."""
    slots = Slots(total=200, per_host=20)
    for _ in range(20):
        for number in range(others):
            slots.take(f"slow-{number}")
    assert slots.take("fast")
    counts = [slots.taken[f"slow-{number}"] for number in range(others)]
    assert max(counts) - min(counts) <= 1


def test_closed_slots_let_nothing_be_claimed_but_take_in_what_was() -> None:
    """A claim that commits while the worker begins to drain finds its slots; the caps hold as ever."""
    slots = Slots(total=2, per_host=2)
    assert slots.occupy("a")
    slots.close()
    assert slots.free == 0
    assert (slots.occupy("b"), slots.occupy("c")) == (True, False)
    slots.give_back("a")
    assert slots.free == 0
