"""The callback worker's settings: every fault at once, no secret shown."""

import base64

import pytest

from callback_worker.settings import CallbackWorkerSettings
from shared.settings import load

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SHORT = "whsec_" + base64.b64encode(b"too short").decode()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@localhost/d")
    monkeypatch.setenv("AMQP_URL", "amqp://localhost/")
    monkeypatch.setenv("CALLBACK_SIGNING_KEYS", KEY)
    return monkeypatch


def test_the_defaults(environment: pytest.MonkeyPatch) -> None:
    config = load(CallbackWorkerSettings)
    assert config.callback_worker_http_port == 3002
    assert config.callback_retry_schedule_s == (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    assert (config.callback_timeout_s, config.callback_expires_s) == (15, 259200)
    assert (config.callback_concurrency, config.callback_concurrency_per_host) == (200, 20)
    assert (config.callback_allowed_networks, config.callback_require_https) == ((), False)
    assert config.callback_allowed_ports is None
    assert KEY not in repr(config)
    assert "\\" not in repr(config)


def test_lists_are_separated_by_commas(environment: pytest.MonkeyPatch) -> None:
    """As the contract writes them."""
    environment.setenv("CALLBACK_SIGNING_KEYS", f"{KEY}, {KEY}")
    environment.setenv("CALLBACK_ALLOWED_NETWORKS", "127.0.0.0/8, ::1/128,10.0.0.7")
    environment.setenv("CALLBACK_RETRY_SCHEDULE_S", "0,0.2")
    environment.setenv("CALLBACK_ALLOWED_PORTS", "80, 443,1024-65535")
    config = load(CallbackWorkerSettings)
    assert len(config.callback_signing_keys) == 2
    assert [str(network) for network in config.callback_allowed_networks] == ["127.0.0.0/8", "::1/128", "10.0.0.7/32"]
    assert config.callback_retry_schedule_s == (0, 0.2)
    assert config.callback_allowed_ports == (range(80, 81), range(443, 444), range(1024, 65536))


def test_every_fault_is_named_and_no_key_is_shown(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad keys by their position; exit 2."""
    environment.delenv("AMQP_URL")
    environment.setenv("CALLBACK_SIGNING_KEYS", f"{SHORT},{KEY},nonsense,")
    environment.setenv("CALLBACK_ALLOWED_NETWORKS", "10.0.0.1/8,127.0.0.0/8,all")
    environment.setenv("CALLBACK_RETRY_SCHEDULE_S", "0,-1,x,nan")
    environment.setenv("CALLBACK_ALLOWED_PORTS", "443,0,90-80,web")
    environment.setenv("CALLBACK_TIMEOUT_S", "0")
    environment.setenv("CALLBACK_CONCURRENCY", "many")
    with pytest.raises(SystemExit) as exited:
        load(CallbackWorkerSettings)
    assert exited.value.code == 2
    faults = dict(line.split(": ", 1) for line in capsys.readouterr().err.splitlines())
    assert faults["AMQP_URL"] == "is required"
    assert faults["CALLBACK_SIGNING_KEYS"] == (
        "key 1 has 9 bytes, not 24 to 64; key 3 must begin with whsec_; key 4 must begin with whsec_"
    )
    assert faults["CALLBACK_ALLOWED_NETWORKS"].startswith("network 1 (10.0.0.1/8) is not")
    assert [fault.split(" is ")[0] for fault in faults["CALLBACK_ALLOWED_PORTS"].split("; ")] == [
        "port 2 (0)", "port 3 (90-80)", "port 4 (web)",
    ]  # fmt: skip
    assert "wait 2 (-1)" in faults["CALLBACK_RETRY_SCHEDULE_S"]
    assert "wait 4 (nan)" in faults["CALLBACK_RETRY_SCHEDULE_S"]
    assert {"CALLBACK_TIMEOUT_S", "CALLBACK_CONCURRENCY"} <= faults.keys()
    assert not any(secret in str(faults) for secret in (SHORT, "nonsense", KEY))
