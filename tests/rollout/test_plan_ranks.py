"""The ranks of a plan: how often another course lies within p10 and p90."""

import random

from fleetcore.fleet.plans import Plan
from fleetcore.model.firmware import CampaignState
from fleetcore.rollout.simulation import Course


def plan(durations):
    courses = [
        Course(
            state=CampaignState.SUCCEEDED,
            reason="",
            duration_ms=each,
            waves=(),
            offers=0,
            bytes=0,
            counts={},
            points=(),
        )
        for each in sorted(durations)
    ]
    return Plan(courses=courses, refused={}, named={}, stuck={}, held={}, held_devices={})


def test_four_of_five_further_courses_lie_between_p10_and_p90():
    chance, held = random.Random(1), 0
    for _ in range(20_000):
        drawn = [round(1_000_000 * chance.random()) for _ in range(21)]
        found = plan(drawn[:20])
        held += found.duration_ms(0.1) <= drawn[20] <= found.duration_ms(0.9)
    assert 0.80 <= held / 20_000 <= 0.83


def test_one_course_is_all_that_is_known():
    assert {plan([7]).duration_ms(share) for share in (0.1, 0.5, 0.9)} == {7}
