"""The health gate's test: exact where all cases can be counted, and never beyond its level."""

import random
from itertools import product
from math import comb, exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fleetcore.model.firmware import Campaign, CampaignState, Execution, ExecutionState
from fleetcore.model.gate import GateScore
from fleetcore.model.rollout import HealthGate, OnFailure, Rollout
from fleetcore.rollout.campaigns import Begin, Counts, Finish, Reason, Stop, decide
from fleetcore.rollout.gate import ODDS, begins, begun_anew, compared, in_words, observed_of, outliers, reached

GATE = HealthGate(alpha=0.2)
S = ExecutionState
BLOCKS = st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(1, 6)), max_size=30)


def scored(blocks, gate=GATE):
    score = GateScore()
    for bad, failed, controls in blocks:
        score = compared(score, gate, bad=bad, controls=controls, controls_bad=min(failed, controls), left=9)
    return score


@given(BLOCKS, st.integers(1, 20), st.integers(1, 20), st.integers(1, 500))
def test_whatever_was_before_a_block_wins_nothing_in_the_mean(blocks, failed, controls, left):
    """Given how many of a block are bad, each of its devices is the updated one with the same chance."""
    score, failed = scored(blocks), min(failed, controls)

    def e(bad):
        after = compared(score, GATE, bad=bad, controls=controls, controls_bad=failed - bad, left=left)
        return exp(after.log_e - score.log_e)

    chance = failed / (controls + 1)
    assert chance * e(True) + (1 - chance) * e(False) == pytest.approx(1)


@given(BLOCKS)
def test_the_e_value_never_passes_the_limit_and_stays_there(blocks):
    score = scored(blocks)
    assert score.log_e <= log(5) + 1e-9
    after = compared(score, GATE, bad=True, controls=3, controls_bad=0, left=1)
    assert not reached(score, GATE) or after.log_e == score.log_e


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8])
def test_the_chance_of_a_false_stop_is_at_most_alpha_counted_over_all_courses(share):
    """Every course of six blocks with two controls each, looked at after every block."""
    controls, total = 2, 0.0
    outcomes = list(product((False, True), range(controls + 1)))
    courses = [(GateScore(), 1.0)]
    for left in range(6, 0, -1):
        following = []
        for score, chance in courses:
            for bad, failed in outcomes:
                its = chance * (share if bad else 1 - share)
                its *= comb(controls, failed) * share**failed * (1 - share) ** (controls - failed)
                after = compared(score, GATE, bad=bad, controls=controls, controls_bad=failed, left=left)
                if reached(after, GATE):
                    total += its
                else:
                    following.append((after, its))
        courses = following

    assert total <= GATE.alpha
    assert sum(chance for _, chance in courses) + total == pytest.approx(1)


@pytest.mark.parametrize(("bad", "failed"), [(True, 1), (False, 2), (True, 3)])
def test_beliefs_follow_the_noncentral_hypergeometric_distribution(bad, failed):
    controls = 5
    before = scored([(True, 0, 5)])
    after = compared(before, GATE, bad=bad, controls=controls, controls_bad=failed - bad, left=9)

    for odds, old, new in zip(ODDS, before.beliefs, after.beliefs, strict=True):
        among, without = odds * comb(controls, failed - 1), comb(controls, failed)
        assert exp(new - old) == pytest.approx((among if bad else without) / (among + without))


def test_devices_that_do_worse_are_found_and_others_are_not():
    def share_of_stops(worse):
        chance, stops = random.Random(3), 0  # a simulation has no secrets
        for _ in range(200):
            score, gate = GateScore(), HealthGate()
            for left in range(200, 0, -1):
                others = sum(chance.random() < 0.02 for _ in range(16))
                bad = chance.random() < 0.02 + worse
                score = compared(score, gate, bad=bad, controls=16, controls_bad=others, left=left)
            stops += reached(score, gate)
        return stops / 200

    assert share_of_stops(0.0) <= 0.05
    assert share_of_stops(0.05) >= 0.85


def test_a_score_in_words_and_begun_anew():
    score = scored([(True, 0, 4), (False, 1, 4)])

    assert in_words(score, GATE).startswith("1 of 2 updated devices are bad, and 1 of 8 comparable ones: e-value ")
    assert begun_anew(replace(score, number=7)) == GateScore(number=7)
    assert begun_anew(None) is None


def test_an_outlier_is_told_from_the_others():
    changes = [8.0, 0.1, -0.1, 0.0, 0.2, None]
    assert outliers(changes, 20.0) == [pytest.approx(0.05), None, None, None, None, None]
    assert outliers(changes[:4], 20.0) == [None] * 4, "too few others"
    assert outliers([0.01, 0.0, 0.0, 0.0, 0.0], 20.0) == [None] * 5, "a thousandth of the level"


def campaign(**more):
    rollout = Rollout(waves=("2",), gate=HealthGate(action=OnFailure.ABORT, max_judged=100))
    made = Campaign(id="c", release="2", url="", targets=(), total=10, state=CampaignState.RUNNING, rollout=rollout)
    return replace(made, wave=1, wave_begun=1, created=1, **more)


def test_a_wave_and_the_campaign_wait_for_what_is_observed():
    done = {1: {S.SUCCEEDED: 2}}
    waiting = Counts(unplaced={S.WAITING: 8}, waves=done, observing={1: 1})

    assert decide(campaign(), waiting, 2) == (campaign(), ())
    assert isinstance(decide(campaign(), Counts(unplaced={S.WAITING: 8}, waves=done), 2)[1][0], Begin)
    assert decide(campaign(), Counts(waves={1: {S.SUCCEEDED: 10}}, observing={1: 1}), 2)[1] == ()
    assert isinstance(decide(campaign(), Counts(waves={1: {S.SUCCEEDED: 10}}), 2)[1][0], Finish)


def test_a_campaign_stops_where_the_test_rejects():
    score = GateScore(log_e=log(25), number=3, updated=3, updated_bad=3, controls=9)
    _, (stop,) = decide(campaign(gate_score=score), Counts(waves={1: {S.SUCCEEDED: 10}}), 2)

    assert isinstance(stop, Stop)
    assert (stop.action, stop.code) == (OnFailure.ABORT, Reason.HEALTH_GATE)
    assert stop.reason == (
        "3 of 3 updated devices are bad, and 0 of 9 comparable ones: e-value 25, the limit is 25"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "observed"),
    [
        (S.REBOOTING, S.SUCCEEDED, True), (S.OFFERED, S.FAILED, True), (S.REBOOTING, S.UNKNOWN, True),
        (S.DOWNLOADING, S.TIMED_OUT, True), (S.OFFERED, S.TIMED_OUT, False), (S.OFFERED, S.REJECTED, False),
        (S.SUCCEEDED, S.REVERTED, False), (S.DOWNLOADING, S.CANCELLED, False), (S.OFFERED, S.ACCEPTED, False),
    ],
)  # fmt: skip
def test_a_device_is_observed_from_the_end_of_its_update(old, new, observed):
    execution = Execution(id="c:d", campaign="c", device="d", state=old, wave=1)
    assert begins(campaign(), execution, replace(execution, state=new)) is observed
    assert not begins(replace(campaign(), rollout=Rollout()), execution, replace(execution, state=new))
    assert not begins(campaign(), execution, replace(execution, state=new, observed=5))


def test_of_a_large_wave_a_sample_is_observed():
    large = replace(campaign(wave_done=None), total=10_000)
    executions = [
        Execution(id=f"c:{at}", campaign="c", device=f"{at}", state=S.REBOOTING, wave=2) for at in range(9998)
    ]

    observed = sum(begins(large, each, replace(each, state=S.SUCCEEDED)) for each in executions)

    assert observed_of(large, large.rollout.gate, 2) == (100, 9998)
    assert 70 <= observed <= 130
