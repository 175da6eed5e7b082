"""Which ports a callback may go to."""

import pytest

from callback_worker.ports import INTERNAL_SERVICES, PortPolicy, parse_ports

DEFAULT = PortPolicy()


def test_the_web_and_user_ports_are_open_less_those_of_internal_services() -> None:
    """All 65,536 of them."""
    expected = {80, 443, *range(1024, 65_536)} - INTERNAL_SERVICES.keys()
    assert {port for port in range(-1, 70_000) if DEFAULT.allows(port)} == expected


def test_every_internal_service_has_its_name_and_a_user_port() -> None:
    """Those below are closed anyway."""
    assert all(1024 <= port <= 65_535 and name for port, name in INTERNAL_SERVICES.items())


@pytest.mark.parametrize("port", [3000, 3001, 4000, 5000, 5001, 8000, 8080, 8443, 8888, 9000, 9443])
def test_the_usual_ports_of_web_servers_are_open(port: int) -> None:
    """A filter that refuses real subscribers is switched off some day."""
    assert DEFAULT.allows(port)


def test_the_operators_list_stands_in_place_of_the_default() -> None:
    """CALLBACK_ALLOWED_PORTS: nothing is added to it, nothing taken from it."""
    policy = PortPolicy((parse_ports("443"), parse_ports("6379-6380")))
    assert {port for port in range(65_536) if policy.allows(port)} == {443, 6379, 6380}


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "99999", "443-", "-443", "444-443", "0-80", "a", "8 0", "８０", "+80", "80-90-99", "1.5"]
)
def test_what_is_no_range_of_ports_is_refused(text: str) -> None:
    """With a sentence for the operator."""
    with pytest.raises(ValueError, match=r"is not"):
        parse_ports(text)
