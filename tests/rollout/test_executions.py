"""One device in a campaign: the table of its states, retries, time-outs, soaking and late reverts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.model.firmware import EXECUTION_ENDS, PROGRESS_ORDER, Execution, ExecutionState
from fleetcore.model.rollout import Retries, Rollout, TimeLimits
from fleetcore.rollout.executions import (
    TRANSITIONS,
    Due,
    Effect,
    Ended,
    Observed,
    Offered,
    Placed,
    Rejoined,
    Reported,
    step,
)

S = ExecutionState
MIN = 60_000
RELEASE = "2.0.0"


class Device:
    """One execution that is moved by events; ``now`` is moved by hand."""

    def __init__(self, steps=1, **rollout):
        self.steps = steps
        self.rollout, self.now = Rollout(**rollout), 1_000_000
        self.execution = Execution(id="c:d", campaign="c", device="d")
        self.effects, self.refused = (), ""

    def does(self, *events):
        for event in events:
            last = self.execution.step + 1 >= self.steps
            made = step(self.execution, event, self.now, release=RELEASE, rollout=self.rollout, last=last)
            self.execution, self.effects, self.refused = made.execution, made.effects, made.refused
        return self

    def says(self, *states, **more):
        return self.does(*(Reported(state=state, **more) for state in states))

    def after(self, ms):
        self.now += ms
        return self.does(Due())

    @property
    def state(self):
        return self.execution.state


def offered(**rollout):
    return Device(**rollout).does(Placed(1), Offered("1.0.0"))


def test_every_state_has_its_row_and_ends_only_move_late():
    assert set(TRANSITIONS) == set(S)
    moving = {state for state in EXECUTION_ENDS if TRANSITIONS[state]}
    assert moving == {S.SUCCEEDED, S.CANCELLED}


def test_a_device_that_was_not_offered_anything_reports_nothing():
    device = Device().does(Placed(1)).says(S.SUCCEEDED, version=RELEASE)

    assert (device.state, device.refused) == (S.WAITING, "The execution is waiting and cannot go to succeeded")


def test_a_failure_is_tried_again_after_a_wait_that_doubles_and_then_ends():
    device = offered(retries=Retries(times=2, wait_ms=MIN)).says(S.FAILED, code="flash_failed")
    waits = []
    for _ in range(2):
        waits.append(device.execution.until - device.now)
        assert (device.state, device.execution.code) == (S.WAITING, "flash_failed")
        device.after(waits[-1] - 1)
        assert device.execution.until is not None
        assert device.after(1).effects == (Effect.TELL,)
        device.does(Offered("1.0.0")).says(S.FAILED, code="flash_failed")

    assert waits == [MIN, 2 * MIN]
    assert (device.state, device.execution.attempt) == (S.FAILED, 3)


def test_a_device_that_needs_no_place_is_told_of_its_next_attempt_too():
    device = Device(retries=Retries(times=1, wait_ms=MIN)).does(Offered("1.0.0")).says(S.FAILED, code="x")

    assert device.execution.due == device.now + MIN
    assert device.after(MIN).effects == (Effect.TELL,)


def test_retries_go_by_the_code_where_it_has_its_own():
    retries = Retries(times=5, by_code={"boot_failed": 0, "battery_low": 1})

    assert offered(retries=retries).says(S.FAILED, code="boot_failed").state is S.FAILED
    assert offered(retries=retries).says(S.REJECTED, code="battery_low").state is S.WAITING
    assert offered(retries=retries).says(S.REJECTED, code="no_space").state is S.REJECTED


def test_a_repeated_report_of_the_failed_attempt_ends_no_other_attempt():
    device = offered(retries=Retries(times=1)).says(S.FAILED, code="x").says(S.FAILED, code="x")

    assert (device.refused, device.execution.attempt, device.state) == ("", 2, S.WAITING)


def test_the_counter_of_retries_survives_leaving_and_rejoining():
    device = offered(retries=Retries(times=1)).says(S.FAILED, code="x").does(Ended(S.CANCELLED, "left"), Rejoined())

    device.does(Placed(1), Offered("1.0.0")).says(S.FAILED, code="x")

    assert (device.state, device.execution.attempt) == (S.FAILED, 2)


def test_after_each_image_but_the_last_a_device_keeps_its_place_and_is_told_of_the_next():
    device = offered(steps=2, soak_ms=MIN).says(S.INSTALLING)
    device.says(S.SUCCEEDED, version=RELEASE)

    assert (device.state, device.execution.step, device.execution.wave) == (S.WAITING, 1, 1)
    assert device.effects == (Effect.TELL,)
    assert device.execution.reason == "2.0.0 is installed; the next image follows"

    device.does(Offered("1.9.0")).says(S.SUCCEEDED, version=RELEASE)
    assert (device.state, device.execution.soaking) == (S.REBOOTING, True), "only the campaign's own image soaks"
    assert device.execution.previous_version == "1.9.0"
    assert device.after(MIN).state is S.SUCCEEDED


def test_a_place_is_lost_between_two_images_too():
    device = offered(steps=2).says(S.SUCCEEDED, version=RELEASE)

    device.after(device.rollout.limits.place_ms)

    assert (device.state, device.execution.step, device.execution.wave) == (S.WAITING, 1, 0)


def test_a_device_that_vanishes_after_its_restart_is_unknown_and_may_come_back():
    device = offered(limits=TimeLimits(return_ms=MIN)).says(S.REBOOTING)

    assert device.after(MIN - 1).state is S.REBOOTING
    assert device.after(1).state is S.UNKNOWN
    assert device.says(S.SUCCEEDED, version=RELEASE).state is S.SUCCEEDED


def test_an_unknown_device_that_shows_its_version_is_waited_for_again():
    device = offered(limits=TimeLimits(return_ms=MIN)).says(S.REBOOTING).after(MIN).does(Observed("1.0.0"))

    assert device.state is S.REBOOTING
    assert device.after(MIN).state is S.UNKNOWN


def test_success_is_the_running_version_after_the_soak():
    device = offered(soak_ms=10 * MIN).says(S.REBOOTING).says(S.SUCCEEDED, version=RELEASE)

    assert device.state is S.REBOOTING
    assert device.after(10 * MIN - 1).state is S.REBOOTING
    assert device.after(1).state is S.SUCCEEDED


def test_a_device_that_goes_back_during_the_soak_has_reverted():
    device = offered(soak_ms=10 * MIN).says(S.SUCCEEDED, version=RELEASE).does(Observed("1.0.0"))

    assert (device.state, device.execution.code) == (S.REVERTED, "health_failed")


def test_a_device_that_goes_back_later_counts_as_reverted():
    device = offered().says(S.SUCCEEDED, version=RELEASE)

    assert device.does(Observed(RELEASE)).state is S.SUCCEEDED
    assert device.does(Observed("2.1.0")).state is S.SUCCEEDED
    assert device.does(Observed("1.0.0")).state is S.REVERTED


def test_a_step_without_a_report_times_out_and_the_offer_is_withdrawn():
    device = offered(limits=TimeLimits(step_ms=MIN)).says(S.DOWNLOADING)
    device.now += MIN - 1
    device.says(S.DOWNLOADING, progress=50.0)  # progress begins the time anew

    assert device.after(MIN - 1).state is S.DOWNLOADING
    assert (device.after(1).state, device.effects) == (S.TIMED_OUT, (Effect.WITHDRAW,))


def test_a_deferral_is_waited_for():
    device = offered(limits=TimeLimits(step_ms=MIN))
    device.says(S.DEFERRED, until=device.now + 60 * MIN)

    assert device.after(60 * MIN).state is S.DEFERRED
    assert device.after(MIN).state is S.TIMED_OUT


def test_all_attempts_together_have_a_time_limit():
    device = offered(retries=Retries(times=100, wait_ms=MIN, factor=1.0), limits=TimeLimits(total_ms=10 * MIN))
    for _ in range(9):
        device.says(S.FAILED, code="x").after(MIN).does(Offered("1.0.0"))
        assert device.state is S.OFFERED

    assert device.says(S.FAILED, code="x").after(MIN).state is S.TIMED_OUT


def test_a_place_that_is_not_taken_up_goes_to_another_device():
    device = Device(limits=TimeLimits(place_ms=MIN)).does(Placed(1)).after(MIN)

    assert (device.state, device.execution.wave, device.execution.missed) == (S.WAITING, 0, 1)


def test_a_withdrawn_device_that_reports_ends_the_withdrawal_and_is_refused():
    device = offered().says(S.DOWNLOADING).does(Ended(S.CANCELLED, "aborted"))
    assert device.effects == (Effect.WITHDRAW,)

    device.says(S.DOWNLOADED)

    assert (device.state, device.execution.withdrawn) == (S.CANCELLED, False)
    assert device.refused == "The execution is cancelled and cannot go to downloaded"


EVENTS = st.one_of(
    st.builds(Placed, st.integers(1, 3)),
    st.builds(Offered, st.sampled_from(["1.0.0", None])),
    st.builds(
        Reported, state=st.sampled_from([state for state in S if state not in (S.WAITING, S.OFFERED, S.UNKNOWN, S.SKIPPED, S.TIMED_OUT)]),
        code=st.sampled_from([None, "x"]), version=st.sampled_from([None, RELEASE]), until=st.integers(0, 10**8),
    ),
    st.builds(Observed, st.sampled_from(["1.0.0", RELEASE, "3.0.0"])),
    st.just(Due()),
    st.builds(Ended, st.sampled_from([S.CANCELLED, S.REJECTED, S.SKIPPED]), st.just("left")),
    st.just(Rejoined()),
)  # fmt: skip


@given(
    st.lists(st.tuples(EVENTS, st.integers(0, 10**8)), max_size=40), st.integers(0, 2), st.sampled_from([0, MIN]),
    st.integers(1, 3),
)  # fmt: skip
def test_whatever_happens_the_table_is_kept(events, retries, soak_ms, steps):
    device = Device(steps, retries=Retries(times=retries), soak_ms=soak_ms)
    for event, wait in events:
        device.now += wait
        before = device.execution
        device.does(event)
        after = device.execution
        if after.state is not before.state:
            assert after.state in TRANSITIONS[before.state], event
        if isinstance(event, Due) and after.due is not None:
            assert after.due > device.now, "what is due is done, so it is not due at once again"
        assert after.attempt >= before.attempt
        assert before.step <= after.step <= before.step + 1
        if after.step > before.step:
            assert (before.state is not S.WAITING, after.state, after.wave) == (True, S.WAITING, before.wave)
        if after.state is S.SUCCEEDED:
            assert after.step == steps - 1
        assert after.missed >= before.missed
        if device.refused:
            assert after.state is before.state
        if after.state in EXECUTION_ENDS:
            assert after.due is None
        elif after.state is not S.WAITING and after.state is not S.CANCELLED:
            # Nothing under way is without an end of its own.
            assert after.due is not None
        if PROGRESS_ORDER[after.state] < PROGRESS_ORDER[before.state] and before.state not in EXECUTION_ENDS:
            assert after.state in (S.WAITING, S.REBOOTING)


@pytest.mark.parametrize("state", [state for state in S if state in EXECUTION_ENDS])
def test_time_and_servers_move_no_end(state):
    device = Device()
    device.execution = Execution(id="c:d", campaign="c", device="d", state=state, due=5)

    assert device.does(Due(), Ended(S.CANCELLED, "left"), Placed(2), Offered("1")).state is state
