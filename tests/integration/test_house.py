"""What every other test stands on: fresh, provisioned houses on servers that can be stopped and started again."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import callback_worker.apply
import callback_worker.claims
import callback_worker.gone
import callback_worker.hosts
import callback_worker.redelivery_store
import callback_worker.store
import callback_worker.subscriptions
import callback_worker.tables
import callback_worker.upkeep
import session_worker.store
import session_worker.tables
from ops.local_stack import Server, Servers
from ops.local_stack.processes import Name
from ops.local_stack.stack import with_login
from shared.database import create_engine, driver_url, insert_rows
from tests.servers import House, fresh_house, provision, run, takes_connections

PASSWORD = "swordfish"
CALLBACK_STORES = (
    callback_worker.apply,
    callback_worker.claims,
    callback_worker.gone,
    callback_worker.hosts,
    callback_worker.redelivery_store,
    callback_worker.store,
    callback_worker.subscriptions,
    callback_worker.upkeep,
)
# What breaks it, and what `provision --check` then says.
UNBOUND = (
    "DELETE /api/bindings/{vhost}/e/charging.partners/q/session_worker.commands/session.%23",
    "queue session_worker.commands is not bound to charging.partners by session.#",
)
BROKER_FAULTS = [
    UNBOUND,
    ("DELETE /api/queues/{vhost}/unrouted", "queue unrouted is missing"),
    ("DELETE /api/exchanges/{vhost}/charging.events", "exchange charging.events is missing"),
    ("DELETE /api/permissions/{vhost}/{gateway}", "user {gateway} may write nothing, wanted"),
    (
        'PUT /api/permissions/{vhost}/{session_worker} {"configure": "^$", "write": ".*", "read": "^$"}',
        "user {session_worker} may write .*, wanted",
    ),
    ('PUT /api/users/{session_worker} {"password": "x", "tags": "monitoring"}', "user {session_worker} has the tags"),
    ("DELETE /api/users/{callback_worker}", "user {callback_worker} is missing"),
]
DATABASE_FAULTS = [
    ("GRANT DELETE ON tariffs TO {session_worker}", "role {session_worker} may DELETE on tariffs, and need not"),
    ("REVOKE INSERT ON outbox FROM {session_worker}", "role {session_worker} may not INSERT on outbox"),
    ("GRANT SELECT ON alembic_version TO {gateway}", "role {gateway} may SELECT on alembic_version, and need not"),
    ("ALTER ROLE {gateway} NOLOGIN", "role {gateway} may not log in"),
    ("ALTER ROLE {gateway} CREATEROLE", "role {gateway} is a superuser or may create"),
    ("DROP OWNED BY {callback_worker}; DROP ROLE {callback_worker}", "role {callback_worker} is missing"),
]


@pytest.fixture(scope="module")
def names(house: House) -> dict[str, str]:
    """The house's vhost, and a login for each process."""
    return {"vhost": house.name, **{name: f"{house.name}_{name}" for name in Name}}


@pytest.fixture(scope="module")
def settings(house: House, names: dict[str, str]) -> dict[str, str]:
    """With these, all that there is to provision is provisioned."""
    named = {f"{name.upper()}_LOGIN": f"{names[name]}:{PASSWORD}" for name in Name}
    named["ADMIN_MANAGEMENT_URL"] = house.management_url
    provision(house, **named)
    return named


def test_a_house_is_provisioned(house: House, settings: dict[str, str]) -> None:
    """`provision --check` finds nothing to do."""
    assert "✗" not in provision(house, "--check", **settings)


def test_provisioning_again_changes_nothing(house: House, settings: dict[str, str], names: dict[str, str]) -> None:
    """It is idempotent: people run it at every deployment."""
    before = broker_state(house, names)
    provision(house, **settings)
    assert broker_state(house, names) == before
    provision(house, "--check", **settings)


def test_a_check_names_what_the_broker_lacks_and_leaves_it_so(
    house: House, settings: dict[str, str], names: dict[str, str]
) -> None:
    """Status 1; the broker is after the check as it was before; provisioning mends it."""
    for call, _ in BROKER_FAULTS:
        manage(house, call, names)
    broken = broker_state(house, names)
    said = failed_check(house, settings)
    assert [fault for _, fault in BROKER_FAULTS if fill(fault, names) not in said] == []
    assert broker_state(house, names) == broken
    provision(house, **settings)
    provision(house, "--check", **settings)


def test_a_check_names_a_queue_with_other_arguments(
    house: House, settings: dict[str, str], names: dict[str, str]
) -> None:
    """A queue's arguments are frozen at its birth: provisioning can only say so, and what to do."""
    manage(house, "DELETE /api/queues/{vhost}/unrouted", names)
    manage(house, 'PUT /api/queues/{vhost}/unrouted {"durable": true}', names)
    try:
        assert "queue unrouted is durable, " in failed_check(house, settings)
        with pytest.raises(pytest.fail.Exception, match="queue unrouted exists with other arguments"):
            provision(house, **settings)
    finally:
        manage(house, "DELETE /api/queues/{vhost}/unrouted", names)
        provision(house, **settings)


def test_a_check_without_the_management_api_says_what_it_cannot_compare(
    house: House, settings: dict[str, str], names: dict[str, str]
) -> None:
    """AMQP can only ask what is there: a missing binding is not seen, a missing queue is, and neither is made."""
    manage(house, UNBOUND[0], names)
    broken = broker_state(house, names)
    assert "not compared without ADMIN_MANAGEMENT_URL: their arguments and bindings" in provision(house, "--check")
    assert broker_state(house, names) == broken
    manage(house, "DELETE /api/queues/{vhost}/unrouted", names)
    broken = broker_state(house, names)
    assert "queue unrouted is missing" in failed_check(house, {})
    assert broker_state(house, names) == broken
    provision(house, **settings)


def test_a_check_names_wrong_rights_in_the_database(
    house: House, settings: dict[str, str], names: dict[str, str]
) -> None:
    """A right too many is as wrong as one too few; provisioning mends both."""
    run(execute(house, ";".join(fill(statement, names) for statement, _ in DATABASE_FAULTS)))
    said = failed_check(house, settings)
    assert [fault for _, fault in DATABASE_FAULTS if fill(fault, names) not in said] == []
    provision(house, **settings)
    provision(house, "--check", **settings)


class TestLeastRightsSuffice:
    """Every statement that a worker has, on values that change nothing: Postgres checks rights all the same."""

    @pytest.fixture
    async def engine(
        self, house: House, settings: dict[str, str], names: dict[str, str], request: pytest.FixtureRequest
    ) -> AsyncIterator[AsyncEngine]:
        login = f"{names[request.param]}:{PASSWORD}"
        opened = create_async_engine(driver_url(with_login(house.database_url, login)))
        yield opened
        await opened.dispose()

    @pytest.mark.parametrize(
        ("engine", "stores", "tables"),
        [
            (Name.SESSION_WORKER, (session_worker.store,), session_worker.tables),
            (Name.CALLBACK_WORKER, CALLBACK_STORES, callback_worker.tables),
        ],
        indirect=["engine"],
        ids=["session_worker", "callback_worker"],
    )
    async def test_for_a_worker(self, engine: AsyncEngine, stores: Sequence[Any], tables: Any) -> None:
        statements = [value for store in stores for value in vars(store).values() if isinstance(value, TextClause)]
        assert len(statements) > 3
        async with engine.connect() as tx:
            for statement in statements:
                await tx.execute(statement, dict.fromkeys(statement.compile().params))
            for table in tables.metadata.sorted_tables:
                await insert_rows(tx, table, [])
            if session_worker.store in stores:
                await insert_rows(tx, session_worker.tables.sessions, [], session_worker.store._UPSERT_SESSION)


def test_a_house_is_gone_after_its_module(servers: Servers) -> None:
    """Quorum queues cost memory; a session of many modules must not pile them up."""
    with fresh_house(servers, "short_lived", provisioned=False) as short_lived:
        assert run(takes_connections(servers, short_lived.name))
    assert httpx.get(f"{servers.management_url}/api/vhosts/{short_lived.name}").status_code == httpx.codes.NOT_FOUND


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_comes_back_with_its_address_and_its_data(
    servers: Servers, house: House, settings: dict[str, str], end: str
) -> None:
    """Tests of outages stop one server in the middle; what was there before is there after."""
    for server in Server:
        getattr(servers, end)(server)
    assert not run(takes_connections(servers, house.name))
    for server in Server:
        servers.start(server)
    provision(house, "--check", **settings)


async def test_what_is_read_after_a_lock_is_new_whatever_the_database_says_of_isolation(house: House) -> None:
    await execute(house, f"""ALTER DATABASE "{house.name}" SET default_transaction_isolation = 'repeatable read'""")
    engine = create_engine(house.database_url, name="test", pool_size=1)
    try:
        async with engine.begin() as tx:
            assert (await tx.execute(text("SHOW transaction_isolation"))).scalar_one() == "read committed"
    finally:
        await engine.dispose()
        await execute(house, f'ALTER DATABASE "{house.name}" RESET default_transaction_isolation')


def failed_check(house: House, settings: dict[str, str]) -> str:
    """What `provision --check` says when it exits with 1."""
    with pytest.raises(pytest.fail.Exception, match="exited 1:") as failed:
        provision(house, "--check", **settings)
    return str(failed.value)


def fill(text: str, names: dict[str, str]) -> str:
    """The text with the house's own names; it may hold JSON's braces as well."""
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def manage(house: House, call: str, names: dict[str, str]) -> None:
    """Calls the management API: method, path and, where there is one, body."""
    method, path, *body = fill(call, names).split(" ", 2)
    answer = httpx.request(method, house.management_url + path, json=json.loads(body[0]) if body else None)
    answer.raise_for_status()


def broker_state(house: House, names: dict[str, str]) -> dict[str, Any]:
    """All that provisioning makes on the broker, but for the passwords' salted hashes."""
    with httpx.Client(base_url=house.management_url) as api:
        state: dict[str, Any] = api.get(f"/api/definitions/{house.name}").json()
        users = [api.get(f"/api/users/{names[name]}").json().get("tags") for name in Name]
        permissions = api.get(f"/api/vhosts/{house.name}/permissions").json()
    listed = {key: sorted(state[key], key=json.dumps) for key in ("exchanges", "queues", "bindings")}
    return {**listed, "users": users, "permissions": sorted(permissions, key=json.dumps)}


async def execute(house: House, statements: str) -> None:
    """Runs SQL as the administrator."""
    connection = await asyncpg.connect(house.database_url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()
