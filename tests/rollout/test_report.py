"""What a report sums up, against counts by hand."""

import pytest
from msgspec.structs import replace

from fleetcore.model.firmware import Campaign, CampaignState, Execution, ExecutionState
from fleetcore.model.rollout import Rollout
from fleetcore.rollout.campaigns import Counts
from fleetcore.rollout.report import POINTS, SLOWEST, Reporter, wave_left_ms

MIN = 60_000
_S = ExecutionState


def execution(number, state, changed=0, **more):
    return Execution(id=f"c:d-{number}", campaign="c", device=f"d-{number}", state=state, changed=changed, **more)


def test_ends_failures_waves_and_the_rate():
    reporter = Reporter()
    for number in range(10):
        reporter.add(execution(number, _S.SUCCEEDED, changed=number * MIN, wave=1, placed=number, first_offered=0), "m")
    reporter.add(execution(20, _S.FAILED, changed=9 * MIN, code="no_space", wave=2, placed=77), "m")
    reporter.add(execution(21, _S.FAILED, changed=9 * MIN, code="no_space", wave=2, placed=76), "n")
    reporter.add(execution(22, _S.FAILED, changed=9 * MIN, code="no_space", wave=2, placed=78), "m")
    reporter.add(execution(23, _S.CANCELLED, changed=9 * MIN), "")
    for number in range(30, 37):
        reporter.add(execution(number, _S.DOWNLOADING, changed=9 * MIN, wave=2, placed=80), "")

    made = reporter.report(10 * MIN)

    assert made.points[0] == (0, 1, 0, 0)
    assert made.points[-1] == (9 * MIN, 10, 3, 1)
    assert made.failures == [(("failed", "no_space", "m"), 2), (("failed", "no_space", "n"), 1)]
    assert [(wave.number, wave.devices, wave.succeeded, wave.failed, wave.left, wave.begun) for wave in made.waves] == [
        (0, 1, 0, 0, 0, None), (1, 10, 10, 0, 0, 0), (2, 10, 0, 3, 7, 76),
    ]  # fmt: skip
    # 13 ended since the first minute, in 10 minutes: the one at time 0 is older than that.
    assert made.per_minute == 1.3
    assert made.waves[2].eta == 10 * MIN + round(7 / 1.3 * MIN)
    assert (made.median_ms, made.slowest[0].device, made.slowest[0].took_ms) == (5 * MIN, "d-9", 9 * MIN)


def test_a_large_campaign_has_few_points_and_names_the_slowest():
    reporter = Reporter()
    for number in range(5000):
        reporter.add(execution(number, _S.SUCCEEDED, changed=number, first_offered=0, wave=1, placed=0), "")

    made = reporter.report(5000)

    assert len(made.points) <= POINTS + 1
    assert made.points[-1] == (4999, 5000, 0, 0)
    assert [each.device for each in made.slowest] == [f"d-{number}" for number in range(4999, 4999 - SLOWEST, -1)]


@pytest.mark.parametrize(
    ("ended", "more", "left"),
    [
        (2, {}, 6 * MIN),  # of 8 in the wave, in 2 minutes
        (8, {}, 0),
        (0, {}, None),
        (2, {"state": CampaignState.PAUSED}, None),
        (2, {"wave": 0, "wave_begun": None}, (18 * 2 * MIN) // 2),  # of all 20, since the campaign began
    ],
)
def test_what_is_left_of_a_wave_goes_by_its_rate_so_far(ended, more, left):
    campaign = Campaign(
        id="c", release="2", url="", targets=(), total=20, state=CampaignState.RUNNING, wave=2, wave_begun=8 * MIN,
        created=8 * MIN, rollout=Rollout(waves=("2", "8")),
    )  # fmt: skip
    # With a rate, a device of the wave has no place yet: it is still counted.
    places = {_S.SUCCEEDED: ended, _S.OFFERED: max(0, 7 - ended)}
    counts = Counts(unplaced={_S.WAITING: 20 - sum(places.values())}, waves={2: places})

    assert wave_left_ms(replace(campaign, **more), counts, 10 * MIN) == left


def test_nothing_has_ended_yet():
    reporter = Reporter()
    reporter.add(execution(1, _S.WAITING), "")
    made = reporter.report(0)
    assert (made.points, made.failures, made.median_ms, made.per_minute, made.waves[0].eta) == ([], [], None, 0.0, None)
