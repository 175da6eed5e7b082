"""Meter values: energy and idle time, in any order, any number of times."""

from datetime import timedelta
from decimal import Decimal
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from shared.meter import Meter, Sample, advance, comes_after, energy_kwh, fold, meter_json, meter_of, usage
from tests.builders import NOW

MINUTE = timedelta(minutes=1)


def timed(*registers: float) -> list[Sample]:
    """One register a minute."""
    return [Sample(NOW + index * MINUTE, Decimal(str(wh)), is_timed=True) for index, wh in enumerate(registers)]


def folded(samples: list[Sample]) -> Meter:
    meter = fold(samples)
    assert meter is not None
    return meter


def test_energy_is_the_last_register_less_the_first() -> None:
    assert energy_kwh(fold(timed(1000, 1500, 4250))) == Decimal("3.25")


def test_one_register_says_nothing_but_that_it_is_measured() -> None:
    assert energy_kwh(fold(timed(1000))) == 0
    assert energy_kwh(None) is None


def test_a_register_that_falls_begins_a_new_segment() -> None:
    assert folded(timed(1000, 1500, 10, 110)).energy_wh == 600


def test_an_overtaken_message_without_a_time_is_no_reset() -> None:
    samples = [Sample(NOW + index * MINUTE, Decimal(wh), is_timed=False) for index, wh in enumerate((50, 100, 70, 120))]
    assert folded(samples).energy_wh == 70


def test_minutes_in_which_nothing_flowed_are_idle() -> None:
    meter = folded(timed(0, 100, 100, 100, 200))
    assert meter.idle_s == 120
    used = usage(meter, Decimal("0.2"), NOW, NOW + 4 * MINUTE)
    assert (used.charging_s, used.idle_s, used.energy_wh) == tuple(map(Decimal, (120, 120, 200)))


def test_after_the_last_sample_a_session_goes_on_as_it_was() -> None:
    idle = usage(folded(timed(0, 100, 100)), None, NOW, NOW + 10 * MINUTE)
    assert (idle.charging_s, idle.idle_s) == tuple(map(Decimal, (60, 540)))
    charging = usage(folded(timed(0, 100)), None, NOW, NOW + 10 * MINUTE)
    assert (charging.charging_s, charging.idle_s) == tuple(map(Decimal, (600, 0)))


registers = st.lists(st.integers(0, 1000), min_size=1, max_size=12)


@given(registers, st.data())
def test_order_and_duplicates_do_not_matter(values: list[int], data: st.DataObject) -> None:
    samples = timed(*values)
    shuffled = data.draw(st.permutations(samples + data.draw(st.lists(st.sampled_from(samples), max_size=5))))
    assert fold(shuffled) == fold(samples)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12), st.data())
def test_without_times_the_energy_is_the_highest_less_the_lowest(values: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(values))
    samples = [Sample(NOW + index * MINUTE, Decimal(wh), is_timed=False) for index, wh in enumerate(order)]
    assert folded(samples).energy_wh == max(values) - min(values)


@given(registers)
def test_taking_one_at_a_time_is_the_same_as_folding_all(values: list[int]) -> None:
    samples = timed(*values)
    one_by_one: Meter | None = None
    for sample in samples:
        assert comes_after(one_by_one, sample)
        one_by_one = advance(meter_of(meter_json(one_by_one)), sample)
    assert one_by_one == fold(samples)


@given(registers)
def test_energy_never_falls(values: list[int]) -> None:
    energies = reduce(lambda so_far, sample: [*so_far, advance(so_far[-1], sample)], timed(*values)[1:],
                      [advance(None, timed(*values)[0])])  # fmt: skip
    assert [meter.energy_wh for meter in energies] == sorted(meter.energy_wh for meter in energies)
