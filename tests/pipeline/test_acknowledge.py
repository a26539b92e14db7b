"""Acknowledge: what each sender is told, and what is counted and kept of it."""

from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Accepted, Dropped, Rejected
from fleetcore.pipeline.acknowledge import Acknowledge, marks_of, outcome_of
from fleetcore.pipeline.message import answer_of
from fleetcore.pipeline.refusals import Refusals

REFUSED = Rejected(code="schema_invalid", reason="as the test wants it")
BUSY = Rejected(code="overloaded", reason="as the test wants it")


def test_every_outcome_is_told_counted_and_kept_as_it_is(delivery, outcomes):
    kept = []
    refusals = Refusals(lambda *letter: kept.append(letter))
    acknowledge = Acknowledge(refusals)
    told = [Accepted(stored=2), Dropped(reason="outdated"), REFUSED, BUSY]

    for outcome in told:
        acknowledge.answer(delivery({}), outcome)

    assert outcomes == told
    assert acknowledge.accepted == 2
    assert refusals.counts == {("test", "schema_invalid"): 1, ("test", "overloaded"): 1}
    assert [(identity, rejected) for identity, _, rejected in kept] == [("d", REFUSED)]


def test_an_adapter_that_raises_harms_no_other(delivery, outcomes, caplog):
    acknowledge = Acknowledge(Refusals(lambda *_: None))
    session, message, _, received = delivery({})

    acknowledge.stored([(session, message, lambda _outcome: 1 / 0, received), delivery({})], [1, 2])

    assert outcomes == [Accepted(stored=2)]
    assert "failed to handle an outcome" in caplog.text


def test_too_many_metrics_names_the_limit(message):
    made = message({})
    made.refuse(0, "t", "too_many_metrics")

    outcome = outcome_of(made, Limits(metrics=7))

    assert (outcome.code, outcome.limit, outcome.unit, outcome.scope) == ("too_many_metrics", 7, "metrics", "device")


def test_a_mark_gives_the_first_answer_back(message):
    made = message({}, id="m1")
    made.count = 2
    made.refuse(3, "t", "time_unit")
    outcome = outcome_of(made, Limits())

    (mark,) = marks_of(made, outcome, 5)

    assert answer_of(mark) == outcome
