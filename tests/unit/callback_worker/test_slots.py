"""Slots never exceed either cap, come back, and leave one to whoever has none in flight."""

from hypothesis import given
from hypothesis import strategies as st

from callback_worker.slots import QUICK_MOST, QUICK_S, Slots

HOSTS = st.sampled_from("abc")


def may_have(slots: Slots, host: str) -> bool:
    """Whether the host would get a slot now."""
    return slots.free > 0 and slots.taken.get(host, 0) < min(slots.per_host, slots.spare_of(host))


@given(st.lists(HOSTS, max_size=60), st.integers(1, 12), st.integers(1, 5))
def test_both_caps_hold_and_every_slot_comes_back(hosts: list[str], total: int, per_host: int) -> None:
    """In all and per host; a host without attempts leaves nothing behind."""
    slots = Slots(total=total, per_host=per_host)
    taken = [host for host in hosts if slots.take(host)]
    assert len(taken) == total - slots.free <= total
    assert max(slots.taken.values(), default=0) <= per_host
    for host in hosts:
        most = min(per_host, max(slots.spare_of(host), 1))
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


@given(st.integers(2, 149))
def test_whoever_has_none_in_flight_finds_a_slot_beside_many_that_are_slow(others: int) -> None:
    """The default caps would be used up by ten slow hosts; the last ones are for who has fewer in flight."""
    slots = Slots(total=200, per_host=20)
    for _ in range(20):
        for number in range(others):
            slots.take(f"slow-{number}")
    assert slots.take("new")
    counts = [slots.taken[f"slow-{number}"] for number in range(others)]
    assert max(counts) - min(counts) <= 1


@given(st.integers(150, 1000))
def test_whoever_was_quick_the_last_time_finds_a_slot_however_many_others_hang(others: int) -> None:
    """With one attempt each they would take all: a quarter is kept for those who give their slots back soon."""
    slots = Slots(total=200, per_host=20)
    slots.note("quick", 0.1)
    for number in range(others):
        slots.take(f"hangs-{number}")
    assert slots.free == slots.kept == 50
    assert sum(slots.take("quick") for _ in range(30)) == 20
    assert not slots.take("new")
    slots.give_back("hangs-0")
    assert slots.take("new")


def test_who_was_slow_the_last_time_is_not_known_to_be_quick_any_more() -> None:
    """What else it has in flight is expected to be like its last attempt."""
    slots = Slots(total=200, per_host=20)
    slots.note("host", QUICK_S)
    assert slots.take("host")
    assert slots.take("host")
    assert slots.unproven_spare == 150
    slots.note("host", QUICK_S + 0.1)
    assert slots.unproven_spare == 148
    slots.note("host", 0.1)
    assert slots.unproven_spare == 150
    slots.give_back("host")
    slots.give_back("host")
    assert (slots.free, slots.unproven_spare) == (200, 150)


def test_whoever_waits_hears_of_a_destination_that_turns_out_quick() -> None:
    """It has more slots now, and so have the others."""
    slots, heard = Slots(total=200, per_host=20), list[str]()
    slots.on_free = lambda: heard.append("free")
    slots.note("host", QUICK_S + 0.1)
    assert not heard
    slots.note("host", 0.1)
    slots.note("host", 0.1)
    assert heard == ["free"]


def test_only_so_many_are_known_to_be_quick() -> None:
    """Those that were so last."""
    slots = Slots(total=200, per_host=20)
    for number in range(2 * QUICK_MOST):
        slots.note("the first" if number % 100 == 0 else f"host-{number}", 0.1)
    assert len(slots.quick) == QUICK_MOST
    assert "the first" in slots.quick
    assert "host-1" not in slots.quick


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["take", "back", "quick", "slow"])), max_size=200))
def test_the_counts_of_those_not_known_to_be_quick_come_out_even(steps: list[tuple[str, str]]) -> None:
    """Whatever is learnt while attempts are in flight; and what is kept is left to the quick ones."""
    slots = Slots(total=12, per_host=3)
    in_flight: list[str] = []
    for host, step in steps:
        if step == "take":
            if slots.take(host):
                in_flight.append(host)
                assert host in slots.quick or slots._unproven_count <= 12 - slots.kept
        elif step == "back" and host in in_flight:
            in_flight.remove(host)
            slots.give_back(host)
        elif step in ("quick", "slow"):
            slots.note(host, 0.1 if step == "quick" else 10)
        assert slots._unproven_count == sum(host not in slots.quick for host in in_flight)
    for host in in_flight:
        slots.give_back(host)
    assert (slots.free, slots._unproven_count) == (12, 0)


def test_closed_slots_let_nothing_be_claimed_but_take_in_what_was() -> None:
    """A claim that commits while the worker begins to drain finds its slots; the caps hold as ever."""
    slots = Slots(total=2, per_host=2)
    assert slots.occupy("a")
    slots.close()
    assert slots.free == 0
    assert (slots.occupy("b"), slots.occupy("c")) == (True, False)
    slots.give_back("a")
    assert slots.free == 0
