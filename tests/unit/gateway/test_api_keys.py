"""Who may call, and who may do what."""

import hashlib
from pathlib import Path

import pytest

from gateway.auth import Scope
from gateway.settings import GatewaySettings
from shared.settings import load
from tests.unit.gateway.fakes import BODIES, PATHS, SESSION_ID, FakePublisher, api_key, opened
from tests.unit.gateway.test_bad_input import problem

DIGEST = hashlib.sha256(b"secret").hexdigest()
KEYS = (
    api_key("app-key", "app", Scope.SESSIONS),
    api_key("payer-key", "payer", Scope.PAYMENTS),
    api_key("boss-key", "boss", Scope.OPERATOR),
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/x")
    monkeypatch.setenv("AMQP_URL", "amqp://localhost/x")


def write(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    path = folder / "keys"
    path.write_text(text)
    monkeypatch.setenv("API_KEYS_FILE", str(path))


def faults_of_start(capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as exit_:
        load(GatewaySettings)
    assert exit_.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_a_key_file_has_comments_blank_lines_and_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One client may have several keys, as while it changes them."""
    other = hashlib.sha256(b"other").hexdigest()
    write(monkeypatch, tmp_path, f"# ours\n\n app  {DIGEST} sessions,payments\napp {other.upper()} operator\n")
    keys = load(GatewaySettings).api_keys
    assert keys == (
        api_key("secret", "app", Scope.SESSIONS, Scope.PAYMENTS),
        api_key("other", "app", Scope.OPERATOR),
    )


def test_every_faulty_line_is_a_fault_of_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All lines at once, by number; neither a key nor its digest is repeated."""
    write(
        monkeypatch,
        tmp_path,
        f"app secret sessions\nfine {DIGEST} sessions\napp {DIGEST} all\nü {DIGEST} sessions\nx\n",
    )
    faults = faults_of_start(capsys)
    assert [fault.partition(":")[0] for fault in faults] == ["API_KEYS_FILE"] * 4
    assert [fault.split(" ")[2] for fault in faults] == ["1:", "3:", "4:", "5:"]
    assert "secret" not in "".join(faults)
    assert DIGEST not in "".join(faults)


@pytest.mark.parametrize("text", ["", "# nothing\n", f"a {DIGEST} sessions\nb {DIGEST} sessions\n"])
def test_a_file_without_keys_or_with_one_key_twice_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """Without keys nobody could call; with a shared one nobody could tell who called."""
    write(monkeypatch, tmp_path, text)
    (fault,) = faults_of_start(capsys)
    assert fault.startswith("API_KEYS_FILE: ")


def test_all_faults_of_the_settings_are_named_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each on stderr, exit status 2."""
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("AMQP_URL", "http://wrong")
    monkeypatch.setenv("API_KEYS_FILE", "/nowhere/keys")
    monkeypatch.setenv("GATEWAY_PORT", "99999")
    monkeypatch.setenv("GATEWAY_PROCESSES", "0")
    faults = faults_of_start(capsys)
    assert [fault.partition(":")[0] for fault in faults] == [
        "DATABASE_URL", "AMQP_URL", "API_KEYS_FILE", "GATEWAY_PORT", "GATEWAY_PROCESSES",
    ]  # fmt: skip


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "gateway.example"])
def test_an_open_door_to_other_machines_needs_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, host: str
) -> None:
    """Anonymous calls from elsewhere are refused at the start, unless keys are set or the operator says so."""
    monkeypatch.setenv("GATEWAY_HOST", host)
    (fault,) = faults_of_start(capsys)
    assert "ALLOW_ANONYMOUS" in fault
    monkeypatch.setenv("ALLOW_ANONYMOUS", "true")
    assert load(GatewaySettings).gateway_host == host
    monkeypatch.delenv("ALLOW_ANONYMOUS")
    write(monkeypatch, tmp_path, f"app {DIGEST} sessions\n")
    assert load(GatewaySettings).gateway_host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_needs_no_keys(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """A developer's own machine."""
    monkeypatch.setenv("GATEWAY_HOST", host)
    assert load(GatewaySettings).api_keys is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer app-key"},
        {"authorization": "bearer  app-key"},
        {"X-API-Key": "app-key"},
        {"Authorization": "Basic eDp5", "X-API-Key": "app-key"},
    ],
)
async def test_a_key_comes_as_bearer_or_in_its_own_header(headers: dict[str, str]) -> None:
    """The client of the key is the client of the message."""
    publisher = FakePublisher()
    async with opened(publisher, KEYS) as client:
        answer = await client.post(PATHS["start"], json=BODIES["start"], headers=headers)
    assert answer.status_code == 202
    assert publisher.published[0].message.headers == {"client": "app", "privileged": False}


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "APP-KEY"}]
)
async def test_without_a_known_key_nothing_is_taken_or_told(headers: dict[str, str]) -> None:
    """401 with WWW-Authenticate on commands and reads; nothing is published."""
    publisher = FakePublisher()
    async with opened(publisher, KEYS) as client:
        posted = await client.post(PATHS["start"], content=b"", headers=headers)
        read = await client.get("/api/v1/session", headers=headers)
    for answer in (posted, read):
        problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert publisher.published == []


async def test_a_key_without_the_scope_is_refused() -> None:
    """`payments` alone neither starts nor reads a session."""
    async with opened(keys=KEYS) as client:
        headers = {"X-API-Key": "payer-key"}
        problem(await client.post(PATHS["start"], json=BODIES["start"], headers=headers), 403, "forbidden")
        problem(await client.get("/api/v1/session", headers=headers), 403, "forbidden")


async def test_only_a_privileged_caller_names_the_price() -> None:
    """`finalCost` needs the scope operator; without a key file every caller has it."""
    body = {"sessionId": SESSION_ID, "finalCost": "12.30"}
    publisher = FakePublisher()
    async with opened(publisher, KEYS) as client:
        refused = await client.post(PATHS["stop"], json=body, headers={"X-API-Key": "app-key"})
        taken = await client.post(PATHS["stop"], json=body, headers={"X-API-Key": "boss-key"})
    async with opened(publisher) as client:
        anonymous = await client.post(PATHS["stop"], json=body)
    assert problem(refused, 403, "forbidden")["errors"][0]["pointer"] == "/finalCost"
    assert (taken.status_code, anonymous.status_code) == (202, 202)
    assert [published.message.headers["privileged"] for published in publisher.published] == [True, True]


async def test_two_clients_may_use_the_same_idempotency_key() -> None:
    """A key is its client's own: another client's command gets another id."""
    publisher = FakePublisher()
    async with opened(publisher, KEYS) as client:
        for key in ("app-key", "boss-key"):
            headers = {"X-API-Key": key, "Idempotency-Key": "once"}
            await client.post(PATHS["start"], json=BODIES["start"], headers=headers)
    first, second = (published.message.message_id for published in publisher.published)
    assert first != second


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/api", "/api/openapi.json"])
async def test_health_and_documentation_need_no_key(path: str) -> None:
    """Probes and people have none."""
    async with opened(keys=KEYS) as client:
        assert (await client.get(path)).status_code == 200
