"""However drivers pay, operators act, providers fail and workers crash: the books balance, and nobody pays twice."""

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid5

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from session_worker.payments.ask import ask
from session_worker.payments.learning import Answer, learn
from session_worker.payments.payment import LinkStatus, Payment, PaymentStatus, RefundStatus
from session_worker.payments.provider import LinkState, Notice, RefundState, Retryable
from session_worker.payments.rules import (
    AUTOMATIC_REFUND_TRIES,
    Ruling,
    Terms,
    look_again,
    open_payment,
    recreate,
    refund,
)
from session_worker.payments.steps import begin
from session_worker.session import Outcome
from shared.commands import RecreatePaymentLink, RefundPayment
from shared.events import EventType
from tests.builders import NOW
from tests.payment_world import World, expire_old

SESSION = UUID(int=1)
TERMS = Terms(provider="sandbox", minimum_minor={"EUR": 50})
COST = Decimal("12.34")
COST_MINOR = 1234
# Longer than any wait of ours within one day's story; a settled payment needs far fewer.
STEPS_MOST = 200


class Ledger(RuleBasedStateMachine):
    """`stored` is the database, `world` the provider. A crash is a step whose answer nobody learns."""

    @initialize()
    def stop_the_session(self) -> None:
        self.now: datetime = NOW
        self.world = World()
        opened = open_payment(SESSION, cost=COST, currency="EUR", terms=TERMS, now=self.now)
        assert opened is not None
        self.stored: Payment = opened
        self.told: list[EventType] = []
        self.parked: set[UUID] = set()
        self.ended: list[UUID] = []
        self.commands = 0
        self.unlearned: tuple[Answer, datetime] | None = None
        self.loop = asyncio.new_event_loop()

    def teardown(self) -> None:
        if not hasattr(self, "stored"):
            return
        try:
            self.everything_settles()
        finally:
            self.loop.close()

    @rule(fault=st.sampled_from(["none", "none", "down", "answer lost", "killed before the call", "killed after it"]))
    def take_a_step(self, fault: str) -> None:
        self._step(fault)

    @rule()
    def an_answer_is_on_its_way(self) -> None:
        """The provider has answered; before anybody learns it, other things happen."""
        if self.unlearned is None:
            self._step("none", learns=False)

    @rule()
    def the_answer_arrives(self) -> None:
        if self.unlearned is not None:
            self._learn(*self.unlearned)
            self.unlearned = None

    @rule(reason=st.sampled_from([None, None, "PROVIDER_DECLINED", "AMOUNT_TOO_LARGE"]))
    def the_provider_changes_its_mind(self, reason: str | None) -> None:
        self.world.refuses = reason

    @rule()
    def the_worker_catches_up(self) -> None:
        for _ in range(STEPS_MOST):
            if not self._step("none"):
                return
        raise AssertionError("there is always another step")

    @rule(is_slow=st.booleans())
    def a_driver_pays_on_the_newest_link(self, is_slow: bool) -> None:
        self.the_worker_catches_up()
        if self.world.links:
            self.world.pay(list(self.world.links)[-1], is_slow=is_slow)
            self.hear_all()

    @rule()
    def a_driver_pays_twice_over(self) -> None:
        """A slow payment, then one on a link that somebody forced meanwhile; both arrive."""
        self.a_driver_pays_on_the_newest_link(is_slow=True)
        self.somebody_asks_for_a_new_link(is_forced=True)
        self.a_driver_pays_on_the_newest_link(is_slow=False)
        for reference in list(self.world.links):
            self.world.settle(reference, succeeds=True)

    @rule()
    def the_newest_refund_fails_after_all(self) -> None:
        self.the_worker_catches_up()
        if self.world.refunds:
            self.world.end_refund(list(self.world.refunds)[-1], RefundState.FAILED)
            self.hear_all()

    @rule()
    def hear_all(self) -> None:
        for notice in self.world.notices:
            self._hear(notice)

    @rule(minutes=st.integers(1, 24 * 60))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)
        expire_old(self.world, self.now)

    @rule(number=st.integers(0, 5), is_slow=st.booleans())
    def a_driver_pays(self, number: int, is_slow: bool) -> None:
        if self.world.links:
            self.world.pay(list(self.world.links)[number % len(self.world.links)], is_slow=is_slow)

    @rule(number=st.integers(0, 5), succeeds=st.booleans())
    def a_slow_payment_ends(self, number: int, succeeds: bool) -> None:
        if self.world.links:
            self.world.settle(list(self.world.links)[number % len(self.world.links)], succeeds=succeeds)

    @rule(number=st.integers(0, 5), state=st.sampled_from([RefundState.SUCCEEDED, RefundState.FAILED]))
    def a_refund_moves(self, number: int, state: RefundState) -> None:
        if self.world.refunds:
            self.world.end_refund(list(self.world.refunds)[number % len(self.world.refunds)], state)

    @rule(number=st.integers(0, 20))
    def a_webhook_comes_in_any_order_and_any_number(self, number: int) -> None:
        if self.world.notices:
            self._hear(self.world.notices[number % len(self.world.notices)])

    @rule(is_forced=st.booleans(), minutes=st.sampled_from([None, 30, 60, 1435]))
    def somebody_asks_for_a_new_link(self, is_forced: bool, minutes: int | None = None) -> None:
        command = RecreatePaymentLink(session_id=SESSION, force=is_forced, expires_in_minutes=minutes)
        cause = self._command_id()
        self._take(recreate(self.stored, command, cause, self.now), cause)

    @rule(amount=st.none() | st.decimals("0.01", "20.00", places=2))
    def somebody_asks_for_a_refund(self, amount: Decimal | None) -> None:
        command = RefundPayment(session_id=SESSION, amount=amount)
        cause = self._command_id()
        self._take(refund(self.stored, command, cause, self.now), cause)

    @invariant()
    def at_most_one_link_can_be_paid_and_one_payment_is_accepted(self) -> None:
        if not hasattr(self, "stored"):
            return
        open_links = [link for link in self.world.links.values() if link.state is LinkState.OPEN]
        assert len(open_links) <= 1
        assert sum(link.is_accepted for link in self.stored.links) <= 1
        assert sum(link.status is LinkStatus.ACTIVE for link in self.stored.links) <= 1

    @invariant()
    def no_more_is_given_back_than_was_paid(self) -> None:
        if hasattr(self, "stored"):
            assert all(self.world.left(f"pay_{reference}") >= 0 for reference in self.world.paid_links())

    def everything_settles(self) -> None:
        """The provider answers, webhooks arrive, time passes: then the books must agree."""
        self.the_answer_arrives()
        self.world.refuses = None
        for reference in list(self.world.links):
            self.world.settle(reference, succeeds=True)
        for _ in range(STEPS_MOST):
            for reference, (_, _, found) in list(self.world.refunds.items()):
                if found.state is RefundState.PENDING:
                    self.world.end_refund(reference, RefundState.SUCCEEDED)
            for notice in self.world.notices:
                self._hear(notice)
            self.world.notices.clear()
            if not self._step("none") and not self._wait_for_what_is_due():
                break
        self._books_agree()

    def _wait_for_what_is_due(self) -> bool:
        """Let the time pass until a failed automatic refund is tried again."""
        waiting = [r.check_at for r in self.stored.refunds if r.status is RefundStatus.REQUESTED and r.check_at]
        if self.stored.creating is not None and self.stored.creating.check_at is not None:
            waiting.append(self.stored.creating.check_at)
        if waiting:
            self.now = max(self.now, min(waiting))
        return bool(waiting)

    def _books_agree(self) -> None:
        stored, world = self.stored, self.world
        failed = [each for each in stored.refunds if each.is_automatic and each.status is RefundStatus.FAILED]
        assert int((stored.paid_amount - stored.refunded_amount) * 100) == world.kept()
        assert stored.creating is None
        assert set(self.ended) == self.parked, "every command that waits has its one end"
        accepted = stored.accepted
        if accepted is None:
            assert stored.status in (PaymentStatus.PENDING, PaymentStatus.PROCESSING, PaymentStatus.FAILED)
            assert world.kept() == 0
            return
        if len(failed) < AUTOMATIC_REFUND_TRIES:
            assert world.kept() == world.left(accepted.payment_id or "")
        assert not [link for link in world.links.values() if link.state is LinkState.OPEN]
        refunded = COST_MINOR - world.left(accepted.payment_id or "")
        expected = {0: PaymentStatus.PAID, COST_MINOR: PaymentStatus.REFUNDED}
        assert stored.status is expected.get(refunded, PaymentStatus.PARTIALLY_REFUNDED)
        assert self.told.count(EventType.PAYMENT_PAID) == 1
        done = [each for each in stored.refunds if each.status is RefundStatus.SUCCEEDED]
        assert self.told.count(EventType.PAYMENT_REFUNDED) >= len(done)

    def _step(self, fault: str, *, learns: bool = True) -> bool:
        begun = begin(self.stored, "Charging session at CHARGER-001", self.now)
        if begun is None:
            return False
        self.stored, step = begun
        if fault == "killed before the call":
            return True
        self.world.now = self.now
        self.world.is_down, self.world.lose_answers = fault == "down", fault == "answer lost"
        try:
            answer = self.loop.run_until_complete(ask(self.world, step, self.now))
        except Retryable:
            return True
        finally:
            self.world.is_down = self.world.lose_answers = False
        if fault == "killed after it":
            return True
        if learns:
            self._learn(answer, self.now)
        else:
            self.unlearned = (answer, self.now)
        self.now += timedelta(milliseconds=1)
        return True

    def _learn(self, answer: Answer, begun_at: datetime) -> None:
        learned = learn(self.stored, answer, begun_at, self.now)
        self.stored = learned.payment
        self.told += [note.type for note in learned.notes]
        self.ended += [each.message_id for each in learned.resolutions if each.message_id not in self.ended]

    def _hear(self, notice: Notice) -> None:
        self.stored = look_again(self.stored, notice, self.now)

    def _take(self, ruling: Ruling, cause: UUID) -> None:
        if ruling.outcome is Outcome.PARKED:
            self.parked.add(cause)
        if ruling.payment is not None:
            self.stored = ruling.payment

    def _command_id(self) -> UUID:
        self.commands += 1
        return uuid5(SESSION, str(self.commands))


def test_a_link_that_ran_out_before_anybody_heard_of_it_is_asked_for_a_few_times_and_no_more() -> None:
    """The provider of these stories, as the sandbox, goes on answering with the one that it has."""
    ledger = Ledger()
    ledger.stop_the_session()
    ledger.take_a_step("answer lost")
    ledger.time_passes(24 * 60)
    ledger.teardown()
    assert [link.status for link in ledger.stored.links] == [LinkStatus.EXPIRED]


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=200, stateful_step_count=30)
