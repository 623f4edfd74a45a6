"""The steps of the breaker drill. Each can be run by itself on a product whose breakers are closed or as it says."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from sqlalchemy import update

from app.accounts.models import User
from tests.drills.journal import Journal
from tests.drills.plan import READ, WRITE, Plan, read_expected
from tests.drills.traffic import Answer, Crowd, Traffic, milliseconds
from tests.drills.watch import ADOPTED, BreakerWatch, Transition, states_on_the_board, transitions, upstream_calls
from tests.fakes.fault_proxy import Barrier, Delay, FaultProxy, Hold, Reset, Status
from tests.servers.product import Product, until

REFUSED_MS = 20.0
"""The goal for a refusal."""

SPREAD_SECONDS = 1.0
"""One worker's opening reaches the others within this time; one without calls looks once a second, or later."""

LONGEST_SPREAD_SECONDS = 2.0
"""More would be a failure."""

_WAIT_SECONDS = 30.0
_MARGIN_SECONDS = 0.5
_ROUNDED_SECONDS = 0.1
_AT_ONCE = 4
_WARM_UP = 8
_FEW_REFUSALS = 20
_LEAST_REFUSALS = 5
_METHODS = {READ: "GET", WRITE: "PUT"}

_SeenT = TypeVar("_SeenT")


class BreakerDrill:
    """The drill on one running product, which is left with its breakers closed.

    Args:
        product: Made with :func:`tests.drills.plan.product_settings`.
        plan: Its parameters.
        journal: Hears of everything.
    """

    def __init__(self, product: Product, plan: Plan, journal: Journal) -> None:
        assert product.stack.proxy is not None
        self._product = product
        self._plan = plan
        self._journal = journal
        self._expected = read_expected(product.environ, product.folder)
        self._proxy: FaultProxy = product.stack.proxy
        user = product.new_user()
        with product.stack.database() as connection:
            connection.execute(update(User).where(User.email == user.email).values(is_admin=True))
        user.log_in()
        self._traffic = Traffic(user)
        self._watch = BreakerWatch(product, user)
        self._send = {READ: self._traffic.download, WRITE: self._traffic.upload}
        self._asked: Counter[str] = Counter()
        self._calls_before: Counter[str] = Counter()

    def run(self) -> None:
        """Run all steps.

        Raises:
            DrillFailedError: Something was not as it should be.
        """
        breaker = self._expected.breaker
        self._journal.say(f"With {self._plan.name}, on {self._product.workers} workers: a breaker opens when")
        self._journal.say(
            f"{breaker.failure_rate_threshold:.0%} of at least {breaker.minimum_number_of_calls} calls fail, or "
            f"{breaker.slow_call_rate_threshold:.0%} take more than "
            f"{breaker.slow_call_duration_threshold_seconds:g} s."
        )
        self._journal.say(
            f"It stays open for {self._expected.wait_seconds:g} s, then tries "
            f"{breaker.permitted_calls_in_half_open_state} calls."
        )
        try:
            for step in (
                self.warm_up,
                self.fail,
                self.stay_open,
                self.recover,
                self.slow_down,
                self.hang,
                self.control,
            ):
                step()
        finally:
            self.close()

    def close(self) -> None:
        """Heal the store and let go of the connections."""
        self._proxy.heal()
        self._watch.close()

    def warm_up(self) -> None:
        """Step 1: all is well."""
        self._journal.step("1. Warm-up: real photos up and down")
        uploads = [self._traffic.upload()]
        with Crowd(_AT_ONCE) as crowd:
            uploads += _answers(crowd.start(self._traffic.upload, _WARM_UP - 1))
            downloads = _answers(crowd.start(self._traffic.download, _WARM_UP))
        self._check_statuses(uploads, 201, "uploads")
        self._check_sent_back(downloads, "downloads")
        for name in (READ, WRITE):
            self._check_state(name, "closed")

    def fail(self) -> None:
        """Step 2: the store fails until both breakers open."""
        self._journal.step("2. Outage: the store breaks off every upload, and answers 500 to all else")
        self._proxy.inject(Reset("request"), method="PUT")
        self._proxy.inject(Status(500))
        self._calls_before = Counter({name: self._upstream(name) for name in (READ, WRITE)})
        self._asked.clear()
        failed: list[Answer] = []
        ends = time.monotonic() + _WAIT_SECONDS
        with Crowd(2 * _AT_ONCE) as crowd:
            while time.monotonic() < ends and (closed := [n for n in (READ, WRITE) if self._is_closed(n)]):
                failed += _answers([one for name in closed for one in crowd.start(self._send[name], _AT_ONCE)])
                self._asked.update(dict.fromkeys(closed, _AT_ONCE))
        self._journal.did(
            f"{self._asked[READ]} downloads, {self._asked[WRITE]} uploads, {_AT_ONCE} of each at a time"
        )
        self._check_refused(failed, "downloads and uploads")
        for name in (READ, WRITE):
            self._check_opening(name, "failure_rate")

    def stay_open(self) -> None:
        """Step 3: the breakers are open and refuse."""
        self._journal.step("3. Open: refused at once, and the store is left alone")
        for what, path in (("a list", "/api/v1/photos"), ("metadata", self._traffic.photo_path)):
            status = self._traffic.look(path)
            self._journal.check(status == 200, f"{what} of photos: {status}")
        ready = self._traffic.look("/health/readiness")
        self._journal.check(ready == 200, f"readiness: {ready}")
        for name in (READ, WRITE):
            self.refuse(name, self._plan.refusals)
        listed = states_on_the_board(self._product)
        told = ", ".join(f"{name} {listed[name]}" for name in (READ, WRITE))
        self._journal.check(listed[READ] == listed[WRITE] == "open", f"`breakers list` says: {told}")
        for name in (READ, WRITE):
            asked, calls = self._asked[name], self._upstream(name) - self._calls_before[name]
            most = self._expected.most_calls(asked)
            self._journal.check(
                calls <= most, f"{name}: {asked} requests in this outage made {calls} calls, at most {most:g} allowed"
            )

    def refuse(self, name: str, count: int) -> None:
        """Send requests, one after the other, while a breaker is open: none of them may reach the store."""
        before, refused_before = self._upstream(name), self._not_permitted(name)
        ends = time.monotonic() + self._watch.wait_left_seconds(name) - _MARGIN_SECONDS
        answers = [self._send[name]() for _ in _while(lambda: time.monotonic() < ends, count)]
        left = self._watch.wait_left_seconds(name)
        self._asked[name] += len(answers)
        calls = self._upstream(name) - before
        self._journal.did(f"{len(answers)} {'downloads' if name == READ else 'uploads'}, one after the other")
        self._journal.check(calls == 0, f"{name}: {calls} calls reached the store")
        self._journal.check(len(answers) >= _LEAST_REFUSALS, "there was time for them while the breaker is open")
        self._check_refused(answers, name, at_least=left)
        refused = self._watch.wait_for_more(name, "not_permitted", refused_before, len(answers))
        by_worker = " + ".join(map(str, refused))
        self._journal.check(sum(refused) == len(answers), f"all refused by the breaker, by worker: {by_worker}")
        self._check_fast(answers)
        self._check_state(name, "open")

    def recover(self) -> None:
        """Step 4: the store works again, and a few calls find out."""
        self._journal.step("4. Recovery: the store works again")
        self._proxy.heal()
        self._wait_until_over(READ)
        permitted = self._expected.breaker.permitted_calls_in_half_open_state
        barrier, before = Barrier(), self._upstream(READ)
        with Crowd(2 * permitted + 2) as crowd, self._holding("GET", barrier):
            asked = crowd.start(self._traffic.download, crowd.size)
            until(lambda: sum(one.done() for one in asked) >= crowd.size - permitted, "all but the trial calls")
            until(lambda: self._upstream(READ) - before >= permitted, "the trial calls to reach the store")
            self._journal.did(f"{len(asked)} downloads at once over all workers, the store holds its answers back")
            # Not by what the workers publish: trial calls that are held back for long are slow calls.
            state = self._followed(lambda: self._watch.state(READ), "half_open")
            calls, refused = self._upstream(READ) - before, [one.result() for one in asked if one.done()]
            barrier.release()
            answers = _answers(asked)
        self._journal.check(state == "half_open", f"{READ} meanwhile: {state}")
        self._journal.check(calls == permitted, f"{calls} trial calls reached the store, {permitted} are permitted")
        self._check_refused(refused, "the others")
        self._journal.did("the store answers")
        self._check_sent_back([one for one in answers if one.status == 200], "trial calls")
        self._check_state(READ, "closed")
        self._close_by_uploads(permitted)

    def slow_down(self) -> None:
        """Step 5: every call succeeds, slowly."""
        slow, at_once = self._plan.slow_answer_seconds, self._expected.breaker.minimum_number_of_calls - 1
        threshold = self._expected.breaker.slow_call_duration_threshold_seconds
        self._journal.step(
            f"5. Slow instead of failing: the store answers after {slow:g} s, more than {threshold:g} s is slow"
        )
        self._proxy.inject(Delay(slow), method="GET")
        failed, answers = self._watch.count(READ, "failed"), list[Answer]()
        with Crowd(at_once) as crowd:
            while self._is_closed(READ) and len(answers) < self._expected.calls_to_reach_the_minimum:
                answers += _answers(crowd.start(self._traffic.download, at_once))
        self._proxy.heal()
        self._journal.did(f"{len(answers)} downloads, {at_once} at a time: too few to open it while they run")
        self._check_sent_back(answers, "downloads")
        fastest = min(answer.seconds for answer in answers)
        self._journal.check(fastest >= slow, f"the fastest took {fastest:.1f} s")
        self._check_no_more(READ, "failed", failed)
        self._check_opening(READ, "slow_call_rate")
        self.refuse(READ, _FEW_REFUSALS)
        self._reset(READ)

    def hang(self) -> None:
        """Step 6: no call ends."""
        count = self._expected.calls_to_reach_the_minimum
        threshold = self._expected.breaker.slow_call_duration_threshold_seconds
        self._journal.step("6. Never answering: the store takes requests and says nothing")
        failed, late = self._watch.count(READ, "failed"), self._watch.calls(READ, "late")
        barrier, began = Barrier(), time.monotonic()
        with Crowd(count) as crowd, self._holding("GET", barrier):
            hanging = crowd.start(self._traffic.download, count)
            self._journal.did(f"{count} downloads at once")
            self._watch.wait_for(READ, "open", threshold + _WAIT_SECONDS)
            opened = time.monotonic() - began
            ended = sum(one.done() for one in hanging)
            self._journal.check(opened >= threshold, f"open in all workers after {opened:.1f} s")
            self._journal.check(ended == 0, f"of the {count} calls, {ended} have ended: no timeout has fired")
            self._check_opening(READ, "slow_call_rate")
            self.refuse(READ, _FEW_REFUSALS)
            self._journal.did("the store answers")
            barrier.release()
            answers = _answers(hanging)
        self._check_sent_back(answers, "downloads that hung")
        self._check_no_more(READ, "failed", failed)
        came_late = sum(self._watch.wait_for_more(READ, "late", late, count))
        self._journal.check(came_late == count, f"results that came late, and changed nothing: {came_late}")
        self._check_state(READ, "open")
        self._reset(READ)

    def control(self) -> None:
        """Step 7: without the breaker the store is called, so the zero of step 3 is the breaker's."""
        self._journal.step("7. Control: the same outage with the breaker disabled")
        self._product.command("breakers", "set", READ, "disabled", "--reason", "drill")
        self._check_state(READ, "disabled")
        self._proxy.inject(Status(500), method="GET")
        before, asked = self._upstream(READ), self._plan.control_downloads
        with Crowd(_AT_ONCE) as crowd:
            answers = _answers(crowd.start(self._traffic.download, asked))
        calls, most = self._upstream(READ) - before, self._expected.most_calls(asked)
        self._proxy.heal()
        self._journal.did(f"{asked} downloads, {_AT_ONCE} at a time")
        self._check_refused(answers, "downloads")
        self._journal.check(calls >= asked, f"{calls} calls reached the store")
        self._journal.check(calls <= most, f"retries are within their budget: at most {most:g} calls")
        self._reset(READ)
        self._check_sent_back([self._traffic.download()], "downloads")

    def _close_by_uploads(self, permitted: int) -> None:
        self._wait_until_over(WRITE)
        uploads = [self._traffic.upload() for _ in range(permitted)]
        self._check_statuses(uploads, 201, "uploads, the first ones after the outage")
        self._check_sent_back([self._traffic.download(one.photo) for one in uploads], "the same, downloaded")
        self._check_state(WRITE, "closed")

    def _wait_until_over(self, name: str) -> None:
        began = time.monotonic()
        until(lambda: self._watch.wait_left_seconds(name) == 0, f"the wait of {name} to be over", _WAIT_SECONDS)
        over = time.monotonic() + _ROUNDED_SECONDS
        until(lambda: time.monotonic() >= over, "what was rounded away to be over, too")
        self._journal.did(f"waited {time.monotonic() - began:.1f} s until {name} may try again")

    def _reset(self, name: str) -> None:
        self._product.command("breakers", "reset", name, "--reason", "drill")
        self._journal.did(f"`breakers reset {name}`")
        self._check_state(name, "closed")

    @contextmanager
    def _holding(self, method: str, barrier: Barrier) -> Iterator[None]:
        """Have the store hang before it answers; whatever happens, let it go on at the end."""
        self._proxy.inject(Hold("response", barrier), method=method)
        try:
            yield
        finally:
            self._proxy.heal()
            barrier.release()

    def _upstream(self, name: str) -> int:
        return upstream_calls(self._proxy, _METHODS[name])

    def _not_permitted(self, name: str) -> dict[int, int]:
        return self._watch.calls(name, "not_permitted")

    def _is_closed(self, name: str) -> bool:
        return self._watch.state(name) == "closed"

    def _check_state(self, name: str, state: str) -> None:
        """All workers come to a state within the time that news may take."""
        states = self._followed(lambda: self._watch.states(name), {state})
        self._journal.check(states == {state}, f"{name} in all workers: {', '.join(sorted(states))}")

    def _followed(self, look: Callable[[], _SeenT], wanted: _SeenT) -> _SeenT:
        """Look until what is wanted is there, for as long as news may take; return what was seen last."""
        ends = time.monotonic() + LONGEST_SPREAD_SECONDS
        while (seen := look()) != wanted and time.monotonic() < ends:
            time.sleep(0.02)  # between two looks, not instead of one
        return seen

    def _check_opening(self, name: str, cause: str) -> None:
        """One worker opened for this cause, and the others followed in time."""
        self._check_state(name, "open")
        until(lambda: len(self._last_openings(name)) == self._product.workers, f"the log to tell of {name}")
        lines = self._last_openings(name)
        deciding = [line for line in lines if line.cause != ADOPTED]
        told = ", ".join(f"{line.cause} of {line.rate}" for line in deciding)
        self._journal.check([line.cause for line in deciding] == [cause], f"one worker opened it by its {told}")
        spread = max(abs(line.at - deciding[0].at) for line in lines)
        self._journal.check(
            spread <= LONGEST_SPREAD_SECONDS,
            f"the other workers followed within {spread:.2f} s; the goal is {SPREAD_SECONDS:g} s, more than "
            f"{LONGEST_SPREAD_SECONDS:g} s would be a failure",
        )

    def _last_openings(self, name: str) -> list[Transition]:
        """Return the last line of each worker, where it tells of an opening."""
        last = {line.pid: line for line in transitions(self._product, name)}
        return [line for line in last.values() if line.target == "open"]

    def _check_no_more(self, name: str, kind: str, before: int) -> None:
        more = self._watch.count(name, kind) - before
        self._journal.check(more == 0, f"{name}: {more} calls were counted as {kind}")

    def _check_statuses(self, answers: list[Answer], status: int, what: str) -> None:
        seen = Counter(answer.status for answer in answers)
        self._journal.check(set(seen) == {status}, f"{what}: {_counted(seen)}")

    def _check_sent_back(self, answers: list[Answer], what: str) -> None:
        seen, right = Counter(answer.status for answer in answers), sum(answer.sent_back for answer in answers)
        self._journal.check(
            set(seen) == {200} and right == len(answers), f"{what}: {_counted(seen)}, {right} right byte for byte"
        )

    def _check_refused(self, answers: list[Answer], what: str, *, at_least: float = 1.0) -> None:
        """All are 503, and say to come back when a breaker may let calls in, or earlier where none has refused."""
        seen, waits = Counter(answer.status for answer in answers), {answer.retry_after or 0 for answer in answers}
        least, most = min(waits, default=0), max(waits, default=0)
        self._journal.check(
            set(seen) == {503} and at_least <= least and most <= math.ceil(self._expected.wait_seconds),
            f"{what}: {_counted(seen)}, Retry-After {least}{'' if least == most else f' to {most}'} s",
        )

    def _check_fast(self, answers: list[Answer]) -> None:
        p50, p99 = milliseconds(answers, 0.5), milliseconds(answers, 0.99)
        self._journal.check(
            p99 <= self._plan.longest_refusal_ms,
            f"answered in {p50:.1f} ms (median), {p99:.1f} ms (p99); the goal is {REFUSED_MS:g} ms, "
            f"more than {self._plan.longest_refusal_ms:g} ms would be a failure",
        )


def _answers(asked: Iterable[Future[Answer]]) -> list[Answer]:
    return [one.result() for one in asked]


def _while(condition: Callable[[], bool], count: int) -> Iterator[int]:
    return islice(iter(lambda: int(condition()), 0), count)


def _counted(seen: Counter[int]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in sorted(seen.items()))
