"""A campaign on arrays: its courses are those of the simulation, device by device, in all that both can tell."""

from statistics import mean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fleetcore.model.firmware import CampaignState, ExecutionState
from fleetcore.model.rollout import FailureLimit, Rate, Retries, Rollout, TimeLimits
from fleetcore.rollout import crowd
from fleetcore.rollout.crowd import Crowd
from fleetcore.rollout.executions import _timed
from fleetcore.rollout.pacing import Pace, rate_now
from fleetcore.rollout.simulation import Behaviour, simulate
from tests.rollout.test_simulation import NOW, a_campaign, check_course, executions_of, rollouts

MIN = 60_000


def crowd_of(campaign, executions):
    made = Crowd(campaign)
    half = len(executions) // 2
    made.add(executions[:half])
    made.add(executions[half:])
    return made


class Watched(Pace):
    """A pace that remembers what it let through."""

    made = ()

    def __init__(self, since):
        super().__init__(since)
        self.kept = []
        Watched.made = (*Watched.made, self)

    def add(self, count, now):
        super().add(count, now)
        self.kept.append((now, count))

    def left(self, rate, succeeded, now):
        self.rate = rate_now(rate, succeeded)
        return super().left(rate, succeeded, now)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), rollouts, st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 5), st.integers(0, 2))
def test_every_course_ends_with_every_device_counted_once_and_the_rate_kept(count, rollout, fails, seed, steps):
    with pytest.MonkeyPatch.context() as patched:
        Watched.made = ()
        patched.setattr(crowd, "Pace", Watched)
        made = a_campaign(count, rollout, steps)
        behaviour = Behaviour(fetch_s=30, install_s=60, fails=fails)
        found = crowd_of(made, executions_of(count)).course(NOW, behaviour, seed)

    check_course(found, made)
    if rollout.rate is not None:
        for pace in Watched.made:
            for at, _ in pace.kept:
                within = sum(number for other, number in pace.kept if at - 60 < other <= at)
                assert within <= rollout.rate.per_minute if rollout.rate.factor == 1 else within <= pace.rate


SEEDS = range(30)


@pytest.mark.parametrize(
    ("behaviour", "steps", "rollout"),
    [
        (Behaviour(), 0, {}),
        (Behaviour(fails=0.1), 1, {"waves": ("10", "10%"), "min_succeeded": 0.8, "retries": Retries(times=2, wait_ms=MIN)}),
        (
            Behaviour(fails=0.1), 0,
            {"waves": ("10%",), "min_succeeded": 0.5, "rate": Rate(per_minute=20), "retries": Retries(times=1)},
        ),
        (Behaviour(fails=0.1), 0, {"rate": Rate(per_minute=20, factor=1.5, every=50), "soak_ms": 10 * MIN}),
        (
            Behaviour(fails=0.3), 0,
            {"waves": ("10%",), "min_succeeded": 0.0, "failures": (FailureLimit(share=0.2, min_executed=50),)},
        ),
        (
            Behaviour(fetch_s=3600, install_s=3600), 0,
            {
                "waves": ("50%",), "min_succeeded": 0.2, "wave_soak_ms": 20 * MIN,
                "limits": TimeLimits(place_ms=60 * MIN, step_ms=60 * MIN, total_ms=90 * MIN, campaign_ms=50 * 60 * MIN),
                "retries": Retries(times=1),
            },
        ),
    ],
)  # fmt: skip
def test_durations_offers_and_ends_are_those_of_the_simulation(behaviour, steps, rollout):
    """By their means over many seeds: the difference is within four of its standard errors."""
    campaign, executions = a_campaign(200, Rollout(**rollout), steps), executions_of(200)
    made = crowd_of(campaign, executions)
    ones = [simulate(campaign, executions, NOW, behaviour, seed) for seed in SEEDS]
    others = [made.course(NOW, behaviour, seed) for seed in SEEDS]

    def agree(what, least):
        one, other = [what(course) for course in ones], [what(course) for course in others]
        error = ((pstdev(one) ** 2 + pstdev(other) ** 2) / len(SEEDS)) ** 0.5
        assert abs(mean(one) - mean(other)) <= 4 * error + least, (mean(one), mean(other), error)

    assert {course.state for course in ones} == {course.state for course in others}
    agree(lambda course: course.duration_ms, 10_000)
    agree(lambda course: course.offers, 0)
    agree(lambda course: course.bytes, 0)
    agree(lambda course: course.counts.get(ExecutionState.SUCCEEDED, 0), 1)
    agree(lambda course: course.counts.get(ExecutionState.TIMED_OUT, 0), 1)
    assert len({len(course.waves) for course in (*ones, *others)}) <= 2


def test_without_chance_both_give_the_same_course():
    campaign = a_campaign(
        100, Rollout(waves=("10", "20%"), wave_soak_ms=30 * MIN, soak_ms=5 * MIN, rate=Rate(per_minute=15))
    )
    behaviour = Behaviour(fetch_s=0, install_s=0)

    one = simulate(campaign, executions_of(100), NOW, behaviour, 1)
    other = crowd_of(campaign, executions_of(100)).course(NOW, behaviour, 1)

    assert (other.state, other.reason, other.counts, other.offers) == (one.state, one.reason, one.counts, one.offers)
    assert abs(other.duration_ms - one.duration_ms) <= one.duration_ms / 100
    assert [round(each / MIN) for each in other.waves] == [round(each / MIN) for each in one.waves]


def test_a_course_goes_on_from_the_present_state():
    campaign = a_campaign(40, Rollout(waves=("50%",), min_succeeded=1.0, retries=Retries(times=1)))
    executions = [
        *executions_of(10, state=ExecutionState.SUCCEEDED, wave=1),
        *executions_of(20, state=ExecutionState.DOWNLOADING, wave=1, placed=NOW, first_offered=NOW, changed=NOW)[10:],
        *executions_of(40)[20:],
    ]
    campaign = replace(campaign, wave=1, wave_begun=NOW)

    one = simulate(campaign, executions, NOW, Behaviour(), 3)
    other = crowd_of(campaign, executions).course(NOW, Behaviour(), 3)

    assert other.state is one.state is CampaignState.SUCCEEDED
    assert (other.offers, other.counts) == (one.offers, one.counts) == (20, {ExecutionState.SUCCEEDED: 40})
    assert len(other.waves) == len(one.waves) == 1


def test_the_same_seed_gives_the_same_course():
    made = crowd_of(a_campaign(50, Rollout(waves=("10%",), retries=Retries(times=1))), executions_of(50))
    behaviour = Behaviour(fails=0.2)

    assert made.course(NOW, behaviour, 5) == made.course(NOW, behaviour, 5)
    assert made.course(NOW, behaviour, 5) != made.course(NOW, behaviour, 6)


REBOOTING = {
    "state": ExecutionState.REBOOTING,
    "wave": 1,
    "placed": NOW - 3000 * MIN,
    "first_offered": NOW - 3000 * MIN,
}


@pytest.mark.parametrize(
    ("present", "steps", "rollout"),
    [
        (REBOOTING | {"soaking": True, "changed": NOW - 50 * MIN}, 0, {"soak_ms": 60 * MIN}),
        (REBOOTING | {"state": ExecutionState.UNKNOWN, "changed": NOW - 2900 * MIN}, 0, {}),
        (REBOOTING | {"changed": NOW - 2900 * MIN}, 0, {"failures": (FailureLimit(share=0.2, min_executed=5),)}),
        (REBOOTING | {"state": ExecutionState.DEFERRED, "changed": NOW, "until": NOW + 300 * MIN}, 2, {}),
    ],
    ids=["soaking", "unknown", "overdue", "deferred before a step"],
)  # fmt: skip
def test_a_device_that_is_under_way_takes_the_time_that_its_state_has_left(present, steps, rollout):
    campaign = replace(
        a_campaign(40, Rollout(waves=("50%",), min_succeeded=0.5, **rollout), steps), wave=1, wave_begun=NOW
    )
    executions = [
        *(_timed(each, campaign.rollout) for each in executions_of(10, **present)),
        *executions_of(40)[10:],
    ]
    behaviour = Behaviour(fetch_s=60, install_s=60)

    ones = [simulate(campaign, executions, NOW, behaviour, seed) for seed in range(8)]
    others = [crowd_of(campaign, executions).course(NOW, behaviour, seed) for seed in range(8)]

    assert {course.state for course in others} == {course.state for course in ones}
    assert [course.counts for course in others] == [course.counts for course in ones]
    length = mean(course.duration_ms for course in ones)
    assert abs(mean(course.duration_ms for course in others) - length) <= max(5 * MIN, length / 10)


def test_a_device_that_soaks_has_reported_already():
    """Its attempt does not fail once more."""
    campaign = a_campaign(10, Rollout(soak_ms=60 * MIN))
    soaking = executions_of(10, state=ExecutionState.REBOOTING, soaking=True, changed=NOW, first_offered=NOW)
    executions = [_timed(each, campaign.rollout) for each in soaking]

    for course in (
        simulate(campaign, executions, NOW, Behaviour(fails=1.0), 1),
        crowd_of(campaign, executions).course(NOW, Behaviour(fails=1.0), 1),
    ):
        assert (course.counts, course.duration_ms // MIN) == ({ExecutionState.SUCCEEDED: 10}, 60)
