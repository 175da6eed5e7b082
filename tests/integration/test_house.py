"""What every other test stands on: fresh, provisioned houses on servers that can be stopped and started again."""

import httpx
import pytest

from ops.local_stack import Server, Servers
from tests.servers import House, fresh_house, provision, run, takes_connections


def test_a_house_is_provisioned(house: House) -> None:
    """`provision --check` finds nothing to do."""
    provision(house, "--check")


def test_provisioning_again_changes_nothing(house: House) -> None:
    """It is idempotent: people run it at every deployment."""
    provision(house)
    provision(house, "--check")


def test_a_house_is_gone_after_its_module(servers: Servers) -> None:
    """Quorum queues cost memory; a session of many modules must not pile them up."""
    with fresh_house(servers, "short_lived", provisioned=False) as short_lived:
        assert run(takes_connections(servers, short_lived.name))
    assert httpx.get(f"{servers.management_url}/api/vhosts/{short_lived.name}").status_code == httpx.codes.NOT_FOUND


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_comes_back_with_its_address_and_its_data(servers: Servers, house: House, end: str) -> None:
    """Tests of outages stop one server in the middle; what was there before is there after."""
    for server in Server:
        getattr(servers, end)(server)
    assert not run(takes_connections(servers, house.name))
    for server in Server:
        servers.start(server)
    provision(house, "--check")
