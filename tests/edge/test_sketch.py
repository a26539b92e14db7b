"""Sketches of quantiles: their error against numpy, and that merging loses nothing."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleetcore.errors import Refused
from fleetcore.model.sketch import ACCURACY, TINY, Sketch, from_document, merged, sketch_of, to_document

numbers = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=200)
SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)


@given(numbers.filter(len), st.sampled_from(SHARES))
@example([1.7976931348623157e308, -1.7976931348623157e308], 1.0)
def test_a_quantile_is_as_accurate_as_stated(values, share):
    true = float(np.sort(values)[int(np.floor(share * (len(values) - 1)))])

    found = sketch_of(values).quantile(share)

    assert abs(found - true) <= ACCURACY * abs(true) * (1 + 1e-9) + TINY


@pytest.mark.parametrize("name", ["normal", "lognormal", "exponential", "pareto"])
def test_quantiles_of_distributions_are_those_of_numpy(name):
    chance = np.random.default_rng(1)
    values = getattr(chance, name)(**({"a": 1.5} if name == "pareto" else {}), size=100_000)
    sketch = sketch_of(values.tolist())

    for share in SHARES:
        true = np.quantile(values, share, method="lower")
        assert sketch.quantile(share) == pytest.approx(true, rel=ACCURACY * (1 + 1e-9), abs=TINY)


@given(st.lists(numbers, max_size=6), st.randoms(use_true_random=False))
def test_merging_parts_in_any_order_gives_the_sketch_of_the_whole(parts, chance):
    whole = sketch_of(value for part in parts for value in part)
    sketches = [sketch_of(part) for part in parts]
    chance.shuffle(sketches)
    cut = len(sketches) // 2

    assert merged(sketches) == whole
    assert merged([merged(sketches[:cut]), merged(sketches[cut:])]) == whole
    assert whole.count == sum(map(len, parts))


@given(numbers)
def test_a_sketch_survives_json(values):
    sketch = sketch_of(values)

    assert from_document(json.loads(json.dumps(to_document(sketch)))) == sketch


def test_a_sketch_of_many_readings_is_short():
    values = np.random.default_rng(1).lognormal(size=200_000).tolist()

    assert len(json.dumps(to_document(sketch_of(values)))) < 16_000


def test_without_numbers_there_is_no_quantile():
    assert sketch_of([]).quantile(0.5) is None
    assert merged([]) == Sketch()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value):
    with pytest.raises(Refused) as refused:
        sketch_of([1.0, value])

    assert refused.value.code == "number_not_finite"


def test_a_share_is_between_0_and_1():
    with pytest.raises(Refused):
        sketch_of([1.0]).quantile(1.1)


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": 0.02}, {"positive": None}, {"positive": "ab"}, {"positive": [[1]]}, {"positive": [[1, 0]]},
        {"positive": [[1, 1.5]]}, {"positive": [[10**9, 1]]}, {"positive": [[1, 1], [1, 1]]},
        {"negative": [[1, 1]] * 50_001}, {"zeros": -1}, {"zeros": True}, {"least": "a"}, {"least": 5.0, "most": 4.0},
        {"most": None},
    ],
)  # fmt: skip
def test_what_a_gateway_made_up_is_refused(change):
    with pytest.raises(Refused) as refused:
        from_document({**to_document(sketch_of([1.0, 2.0])), **change})

    assert refused.value.code == "schema_invalid"


def test_an_object_is_needed():
    with pytest.raises(Refused):
        from_document([])
