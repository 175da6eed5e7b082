"""Slots never exceed either cap, and come back."""

from hypothesis import given
from hypothesis import strategies as st

from callback_worker.slots import Slots

HOSTS = st.sampled_from("abc")


@given(st.lists(HOSTS, max_size=60), st.integers(1, 12), st.integers(1, 5))
def test_both_caps_hold_and_every_slot_comes_back(hosts: list[str], total: int, per_host: int) -> None:
    """In all and per host; a host without attempts leaves nothing behind."""
    slots = Slots(total=total, per_host=per_host)
    freed: list[None] = []
    slots.on_free = lambda: freed.append(None)
    taken = [host for host in hosts if slots.take(host)]
    assert len(taken) == total - slots.free <= total
    assert max(slots.taken.values(), default=0) <= per_host
    for host in hosts:
        assert taken.count(host) == per_host or not slots.free or taken.count(host) == hosts.count(host)
    for host in taken:
        slots.give_back(host)
    assert (slots.free, dict(slots.taken), len(freed)) == (total, {}, len(taken))


def test_closed_slots_let_nothing_be_claimed_but_take_in_what_was() -> None:
    """A claim that commits while the worker begins to drain finds its slots; the caps hold as ever."""
    slots = Slots(total=2, per_host=2)
    assert slots.take("a")
    slots.close()
    assert slots.free == 0
    assert (slots.take("b"), slots.take("c")) == (True, False)
    slots.give_back("a")
    assert slots.free == 0
