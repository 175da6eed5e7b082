"""What is too old, by which clock and by which id; and the settings that say for how long things are kept."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4, uuid5

import pytest
from pydantic import SecretStr, ValidationError

from ops.maintain import MaintainSettings
from session_worker.intake import receive
from shared.commands import CancelSession, RecreatePaymentLink, RefundPayment, RequestSession, StartSession, StopSession
from shared.ids import NAMESPACE, least_id, minted_at, uuid7
from shared.retention.age import MARGIN, cutoff, doubt, is_forgotten
from shared.retention.aged import HELD, callback_purges
from shared.retention.batches import LONG_S, _next_size
from shared.retention.sessions import session_purges
from shared.retention.settings import CallbackRetention, SessionRetention
from shared.topology import COMMANDS
from tests.builders import NOW, inbound
from tests.servers import REPOSITORY

DAY = timedelta(days=1)
URL = SecretStr("postgresql://localhost/voltline")


def test_the_time_of_an_id_is_read_from_version_7_alone() -> None:
    assert minted_at(uuid7(NOW)) == NOW
    assert minted_at(uuid4()) is None
    assert minted_at(uuid5(NAMESPACE, "key")) is None


def test_an_id_of_a_year_that_no_calendar_has_is_of_no_time() -> None:
    """Partners may send any bits: such an id must not stop their message."""
    assert minted_at(UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")) is None
    assert minted_at(UUID("00000000-0000-7000-8000-000000000000")) == datetime(1970, 1, 1, tzinfo=UTC)


def test_no_id_of_a_time_is_less_than_the_least() -> None:
    assert uuid7(NOW - timedelta(milliseconds=1)) < least_id(NOW) <= uuid7(NOW)
    # A hundred years may be kept, and there are no ids from before 1970.
    assert least_id(NOW - 36_500 * DAY) == UUID(int=0)


def test_what_goes_is_a_day_older_than_the_setting_and_zero_keeps_for_ever() -> None:
    assert cutoff(NOW, 30) == NOW - 31 * DAY
    assert cutoff(NOW, 0) is None


def test_a_message_is_refused_for_its_age_before_its_inbox_row_goes() -> None:
    """However far the clocks of gateway and database are apart, up to the margin: what is applied is in the inbox."""
    oldest_applied = NOW - 30 * DAY
    assert not is_forgotten(oldest_applied, NOW, 30)
    assert is_forgotten(oldest_applied - timedelta(seconds=1), NOW, 30)
    before = cutoff(NOW, 30)
    assert before is not None
    assert before + MARGIN <= oldest_applied


def test_clocks_that_are_more_than_the_margin_apart_are_not_believed() -> None:
    assert doubt(NOW + MARGIN, NOW) is None is doubt(NOW, NOW + MARGIN)
    for days in (12_419, -12_419):
        assert doubt(NOW + days * DAY, NOW) == "the database's clock and this host's are 12,419 days apart"


def test_what_has_no_time_is_never_too_old_nor_anything_where_all_is_remembered() -> None:
    assert not is_forgotten(None, NOW, 30)
    assert not is_forgotten(NOW - 9999 * DAY, NOW, 0)


class TestTheTimeOfACommand:
    """What `receive` believes of when a command was made."""

    def test_its_own_id_tells(self) -> None:
        message_id = str(uuid7(NOW - 40 * DAY))
        received = receive(inbound(b'{"chargerId": "C"}', message={"message_id": message_id}), NOW)
        assert received.minted_at == NOW - 40 * DAY

    def test_the_session_that_it_names_may_be_of_any_age(self) -> None:
        """An id may have been made with a reservation, long before the start."""
        old = str(uuid7(NOW - 40 * DAY)).encode()
        assert receive(inbound(b'{"chargerId": "C", "sessionId": "%s"}' % old), NOW).minted_at is None
        assert receive(inbound(b'{"sessionId": "%s"}' % old, routing_key="session.stop.v1"), NOW).minted_at is None

    def test_a_timestamp_is_believed_of_the_gateway_alone(self) -> None:
        """A partner's clock or unit may be wrong; a key's id has no time of its own."""
        message = {"timestamp": NOW - 40 * DAY, "message_id": str(uuid5(NAMESPACE, "key"))}
        assert receive(inbound(b'{"chargerId": "C"}', message=message), NOW).minted_at is None
        from_gateway = inbound(b'{"chargerId": "C"}', message=message, exchange=COMMANDS)
        assert receive(from_gateway, NOW).minted_at == NOW - 40 * DAY


def test_what_is_remembered_with_its_session_is_all_that_acts_on_one() -> None:
    """Meter values are known again by themselves; a provider's event only says where to look."""
    models = (RequestSession, StartSession, StopSession, CancelSession, RecreatePaymentLink, RefundPayment)
    assert {part for part in HELD.split("'") if "." in part} == {model.TYPE for model in models}


@pytest.mark.parametrize("name", ["inbox", "refused", "session", "payment", "callback_log"])
def test_zero_keeps_that_kind_for_ever_and_no_other(name: str) -> None:
    every = MaintainSettings(database_url=URL)
    kept = every.model_copy(update={f"{name}_retention_days": 0})
    gone = _names(every) - _names(kept)
    assert (
        gone
        == {
            "inbox": {"inbox", "callback_inbox"},
            "refused": {"sessions, refused", "requests, refused"},
            "session": {"sessions, unpriced"},
            "payment": {"sessions, priced"},
            "callback_log": {"callback_deliveries"},
        }[name]
    )
    assert _names(kept) < _names(every)


def _names(config: MaintainSettings) -> set[str]:
    return {purge.name for purge in (*session_purges(config, NOW), *callback_purges(config, NOW))}


def test_an_inbox_that_forgets_what_may_still_come_again_is_refused() -> None:
    for model in (SessionRetention, CallbackRetention):
        with pytest.raises(
            ValidationError, match=r"inbox_retention_days\n.*at least 7 days, and not less than CALLBACK_EXPIRES_S "
        ):
            model(inbox_retention_days=6)
    assert SessionRetention(inbox_retention_days=7).inbox_retention_days == 7


def test_a_log_that_forgets_what_is_under_way_is_refused() -> None:
    """An event that comes again would make its delivery anew."""
    with pytest.raises(
        ValidationError, match=r"callback_log_retention_days\n.*at least CALLBACK_EXPIRES_S plus 7 days, here 10 days"
    ):
        CallbackRetention(callback_log_retention_days=9)
    with pytest.raises(
        ValidationError, match=r"callback_log_retention_days\n.*at least CALLBACK_EXPIRES_S plus 7 days, here 11 days"
    ):
        CallbackRetention(callback_log_retention_days=10, callback_expires_s=3 * 86_400 + 1)
    assert CallbackRetention(callback_log_retention_days=10).callback_log_retention_days == 10


def test_a_redelivery_that_outlives_its_command_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"callback_expires_s\n.*at most 2592000"):
        CallbackRetention(callback_expires_s=31 * 86_400)
    assert CallbackRetention(callback_expires_s=31 * 86_400, inbox_retention_days=0).inbox_retention_days == 0


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        MaintainSettings(
            database_url=URL, inbox_retention_days=1, callback_log_retention_days=1, payment_retention_days=-1
        )
    assert {fault["loc"][0] for fault in refused.value.errors()} == {
        "inbox_retention_days", "callback_log_retention_days", "payment_retention_days",
    }  # fmt: skip


def test_the_command_is_told_by_help() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "ops", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "maintain" in ran.stdout


def test_a_batch_that_took_long_is_followed_by_a_smaller_one() -> None:
    assert _next_size(1000, 1000, LONG_S * 2) == 500
    assert _next_size(1, 1000, LONG_S * 2) == 1
    assert _next_size(500, 1000, LONG_S / 2) == 500
    assert _next_size(500, 1000, LONG_S / 20) == 1000
    assert _next_size(1000, 1000, 0) == 1000
