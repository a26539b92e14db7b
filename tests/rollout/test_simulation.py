"""A campaign under a virtual clock: what the engine promises holds in whole courses, whatever devices do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore.model.firmware import Campaign, CampaignState, Execution, ExecutionState, FirmwareImage
from fleetcore.model.rollout import FailureLimit, OnFailure, Rate, Retries, Rollout
from fleetcore.rollout import simulation
from fleetcore.rollout.pacing import Pace
from fleetcore.rollout.simulation import Behaviour, simulate

NOW = 1_780_000_000_000


def a_campaign(count, rollout, steps=0):
    before = tuple(FirmwareImage(release=f"1.{n}", size=10) for n in range(steps))
    return Campaign(
        id="c", release="2", url="", targets=(), total=count, created=NOW, rollout=rollout, before=before, size=1
    )


def executions_of(count, **more):
    return [Execution(id=f"c:d-{n}", campaign="c", device=f"d-{n}", **more) for n in range(count)]


def course(count, behaviour=None, seed=1, **rollout):
    made = a_campaign(count, Rollout(**rollout))
    return simulate(made, executions_of(count), NOW, behaviour or Behaviour(), seed)


def check_course(found, campaign):
    """It has ended, and counts each device once and no more offers than it may make."""
    assert found.state is not CampaignState.RUNNING
    assert sum(found.counts.values()) == campaign.total
    assert found.offers <= campaign.total * (campaign.rollout.retries.times + 1 + len(campaign.before))
    assert found.offers <= found.bytes <= 10 * found.offers
    if found.state is CampaignState.SUCCEEDED:
        assert ExecutionState.WAITING not in found.counts


def test_all_devices_at_once_take_as_long_as_the_slowest():
    found = course(200, Behaviour(fetch_s=0, install_s=60))

    assert (found.state, found.counts) == (CampaignState.SUCCEEDED, {ExecutionState.SUCCEEDED: 200})
    assert found.offers == 200
    assert 120_000 < found.duration_ms < 900_000


def test_waves_begin_one_after_the_other():
    found = course(100, waves=("1", "10%"), wave_soak_ms=3_600_000)

    assert len(found.waves) == 3
    assert all(later - before >= 3_600_000 for before, later in zip(found.waves, found.waves[1:], strict=False))
    assert found.state is CampaignState.SUCCEEDED


def test_the_same_seed_gives_the_same_course():
    assert course(300, Behaviour(fails=0.1), retries=Retries(times=2)) == course(
        300, Behaviour(fails=0.1), retries=Retries(times=2)
    )
    assert course(300).duration_ms != course(300, seed=2).duration_ms


def test_too_many_failures_stop_it():
    limit = FailureLimit(share=0.1, min_executed=10, action=OnFailure.ABORT)
    found = course(1000, Behaviour(fails=0.5), waves=("50",), failures=(limit,))

    assert (found.state, len(found.waves)) == (CampaignState.ABORTED, 1)
    assert found.offers <= 50


def test_a_campaign_with_a_rate_is_looked_at_once_a_second(monkeypatch):
    looks, decide = [], simulation.decide

    def counted(campaign, counts, now, places):
        looks.append(now)
        return decide(campaign, counts, now, places)

    monkeypatch.setattr(simulation, "decide", counted)
    found = course(
        400, Behaviour(fails=0.1), rate=Rate(per_minute=30), retries=Retries(times=2), waves=("10%",), min_succeeded=0.5,
        wave_soak_ms=60_000,
    )  # fmt: skip

    assert found.state is CampaignState.SUCCEEDED
    # One more for each wave, and where it ends.
    assert len(looks) <= found.duration_ms / 1000 + 10


def test_a_rate_alone_sets_the_duration():
    found = course(600, Behaviour(fetch_s=1, install_s=1), rate=Rate(per_minute=60))

    assert 9 * 60_000 <= found.duration_ms <= 12 * 60_000


rollouts = st.builds(
    Rollout,
    waves=st.lists(st.sampled_from(["1", "3", "10%", "25%"]), max_size=3).map(tuple),
    min_succeeded=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    wave_soak_ms=st.sampled_from([0, 600_000]),
    soak_ms=st.sampled_from([0, 60_000]),
    failures=st.lists(
        st.builds(
            FailureLimit, share=st.sampled_from([0.0, 0.1, 0.5]), min_executed=st.integers(1, 20),
            action=st.sampled_from(list(OnFailure)),
        ), max_size=2,
    ).map(tuple),
    rate=st.none() | st.builds(Rate, per_minute=st.integers(1, 30), factor=st.sampled_from([1.0, 2.0]), every=st.integers(1, 20)),
    retries=st.builds(Retries, times=st.integers(0, 3), wait_ms=st.sampled_from([0, 60_000])),
)  # fmt: skip


class Watched(Pace):
    """A pace that remembers every offer."""

    made = ()

    def take(self, rate, succeeded, now):
        done = super().take(rate, succeeded, now)
        if done:
            Watched.made = (*Watched.made, (now, succeeded))
        return done


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 60), rollouts, st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 5), st.integers(0, 2))
def test_every_course_ends_with_every_device_counted_once_and_the_rate_kept(count, rollout, fails, seed, steps):
    with pytest.MonkeyPatch.context() as patched:
        Watched.made = ()
        patched.setattr(simulation, "Pace", Watched)
        made = a_campaign(count, rollout, steps)
        found = simulate(made, executions_of(count), NOW, Behaviour(fetch_s=30, install_s=60, fails=fails), seed)

    check_course(found, made)
    if rollout.rate is not None:
        limit = rollout.rate.per_minute
        for at, succeeded in Watched.made:
            allowed = min(limit * rollout.rate.factor ** (succeeded // rollout.rate.every), 1_000_000)
            assert sum(at - 60 < other <= at for other, _ in Watched.made) <= allowed
