"""Quantile sketches: each gateway summarises its own readings, and the summaries are merged to that of all of them.

The sketch is DDSketch (Masson, Rim and Lee, VLDB 2019): counts of values in buckets, whose borders grow by a factor.
Every quantile is within :data:`ACCURACY` of the true one, relative to it. Merging adds counts, so it loses nothing: the
sketch of all readings is equal however they were divided and in whatever order they were merged.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from fleetcore.errors import Refused

#: The largest relative error of a quantile.
ACCURACY = 0.01
#: Values that are closer to 0 count as 0; with this there are 3,400 buckets at most, of each sign, up to 1e20.
TINY = 1e-10
_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GAMMA = math.log(_GAMMA)
#: The buckets of the smallest and the largest number that is not 0.
_LOWEST, _HIGHEST = math.ceil(math.log(TINY) / _LOG_GAMMA), math.ceil(math.log(sys.float_info.max) / _LOG_GAMMA)
_MOST_COUNTED = 2**53
#: What a sketch may have in plain data, which a gateway sends.
_MAX_BUCKETS = 50_000


@frozen(kw_only=True)
class Sketch:
    """A summary of numbers.

    Attributes:
        positive, negative: bucket → how many. Bucket ``i`` has magnitudes above ``g^(i-1)`` and up to ``g^i``; g is
            ``(1 + ACCURACY) / (1 - ACCURACY)``.
        zeros: how many are closer to 0 than :data:`TINY`.
        least, most: the smallest and the largest; None without any.
    """

    positive: Mapping[int, int] = field(factory=dict)
    negative: Mapping[int, int] = field(factory=dict)
    zeros: int = 0
    least: float | None = None
    most: float | None = None

    @property
    def count(self) -> int:
        """How many numbers it summarises."""
        return self.zeros + sum(self.positive.values()) + sum(self.negative.values())

    def quantile(self, share: float) -> float | None:
        """The number below which a share of all lies, 0 to 1; None without any.

        It is within :data:`ACCURACY` of the number at rank ``floor(share * (count - 1))``, as numpy's method ``lower``.

        Raises:
            Refused: the share is not between 0 and 1.
        """
        if not 0 <= share <= 1:
            raise Refused(f"A quantile's share is between 0 and 1, not {share}")
        if self.least is None or self.most is None:
            return None
        rank = math.floor(share * (self.count - 1))
        for value, count in self._values():
            rank -= count
            if rank < 0:
                return min(max(value, self.least), self.most)
        return self.most

    def _values(self) -> Iterable[tuple[float, int]]:
        """What stands for each bucket, in rising order, and how many are in it."""
        for bucket in sorted(self.negative, reverse=True):
            yield -_middle(bucket), self.negative[bucket]
        yield 0.0, self.zeros
        for bucket in sorted(self.positive):
            yield _middle(bucket), self.positive[bucket]


def _middle(bucket: int) -> float:
    """The number whose relative distance to both borders of a bucket is the same."""
    try:
        return math.exp(bucket * _LOG_GAMMA) * 2 / (_GAMMA + 1)
    except OverflowError:
        return math.inf


def sketch_of(numbers: Iterable[float]) -> Sketch:
    """The sketch of some numbers; raises Refused (``number_not_finite``)."""
    positive, negative, zeros = Counter[int](), Counter[int](), 0
    least, most = math.inf, -math.inf
    for number in numbers:
        if not math.isfinite(number):
            raise Refused(f"{number} is not finite", code="number_not_finite")
        least, most = min(least, number), max(most, number)
        magnitude = abs(number)
        if magnitude < TINY:
            zeros += 1
        elif number > 0:
            positive[math.ceil(math.log(magnitude) / _LOG_GAMMA)] += 1
        else:
            negative[math.ceil(math.log(magnitude) / _LOG_GAMMA)] += 1
    if least > most:
        return Sketch()
    return Sketch(positive=dict(positive), negative=dict(negative), zeros=zeros, least=least, most=most)


def sketch_of_column(numbers: npt.NDArray[np.float64]) -> Sketch:
    """The same of a column of finite numbers, which numpy counts."""
    if not len(numbers):
        return Sketch()
    magnitude = np.abs(numbers)
    tiny = magnitude < TINY
    return Sketch(
        positive=_counted(magnitude[~tiny & (numbers > 0)]), negative=_counted(magnitude[~tiny & (numbers < 0)]),
        zeros=int(tiny.sum()), least=float(numbers.min()), most=float(numbers.max()),
    )  # fmt: skip


def _counted(magnitudes: npt.NDArray[np.float64]) -> Mapping[int, int]:
    bucket, count = np.unique(np.ceil(np.log(magnitudes) / _LOG_GAMMA).astype(np.int64), return_counts=True)
    return dict(zip(bucket.tolist(), count.tolist(), strict=True))


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """The sketch of everything that some sketches summarise."""
    positive, negative, zeros = Counter[int](), Counter[int](), 0
    least, most = list[float](), list[float]()
    for sketch in sketches:
        positive.update(sketch.positive)
        negative.update(sketch.negative)
        zeros += sketch.zeros
        least += [] if sketch.least is None else [sketch.least]
        most += [] if sketch.most is None else [sketch.most]
    return Sketch(
        positive=dict(positive), negative=dict(negative), zeros=zeros, least=min(least, default=None),
        most=max(most, default=None),
    )  # fmt: skip


def to_document(sketch: Sketch) -> dict[str, object]:
    """A sketch as JSON."""
    return {
        "accuracy": ACCURACY,
        "positive": [list(each) for each in sorted(sketch.positive.items())],
        "negative": [list(each) for each in sorted(sketch.negative.items())],
        "zeros": sketch.zeros,
        "least": sketch.least,
        "most": sketch.most,
    }


def from_document(document: object) -> Sketch:
    """A sketch from JSON, which a gateway may have made up.

    Raises:
        Refused: ``schema_invalid``, with the ``pointer`` of the member.
    """
    if not isinstance(document, Mapping) or document.get("accuracy") != ACCURACY:
        raise Refused(f"A sketch is an object whose accuracy is {ACCURACY}", pointer="/accuracy")
    positive, negative = (_buckets(document, name) for name in ("positive", "negative"))
    zeros = document.get("zeros")
    if type(zeros) is not int or not 0 <= zeros <= _MOST_COUNTED:
        raise Refused("zeros must be a count", pointer="/zeros")
    least, most = document.get("least"), document.get("most")
    found = Sketch(positive=positive, negative=negative, zeros=zeros)
    if found.count == 0:
        return Sketch()
    if not (_is_number(least) and _is_number(most) and cast("float", least) <= cast("float", most)):
        raise Refused("least and most must be numbers, the smaller one first", pointer="/least")
    return Sketch(
        positive=positive, negative=negative, zeros=zeros, least=float(cast("float", least)),
        most=float(cast("float", most)),
    )  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _buckets(document: Mapping[str, object], name: str) -> Mapping[int, int]:
    found = document.get(name)
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) > _MAX_BUCKETS:
        raise Refused(f"{name} must be a list of up to {_MAX_BUCKETS} buckets", pointer=f"/{name}")
    buckets: dict[int, int] = {}
    for at, each in enumerate(found):
        if not isinstance(each, Sequence) or isinstance(each, str) or len(each) != 2:
            raise Refused("A bucket must be its number and its count", pointer=f"/{name}/{at}")
        bucket, count = each
        if type(bucket) is not int or not _LOWEST <= bucket <= _HIGHEST or bucket in buckets:
            raise Refused(f"A bucket's number is from {_LOWEST} to {_HIGHEST}, each once", pointer=f"/{name}/{at}")
        if type(count) is not int or not 1 <= count <= _MOST_COUNTED:
            raise Refused("A bucket's count must be a positive integer", pointer=f"/{name}/{at}")
        buckets[bucket] = count
    return buckets
