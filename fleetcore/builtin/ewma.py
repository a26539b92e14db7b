"""Exponentially weighted mean and variance of many series at once: the result of a step per point, without the loop.

For each point, in order, with ``w = max(weight, 1 / (n + 1))`` so that the first points weigh alike:

    d = x - mean;  mean += w * d;  variance = (1 - w) * (variance + w * d * d);  n += 1

(Finch, Incremental calculation of weighted mean and variance, 2009, §9). Two methods give the same numbers within 1e-9:
*rounds* take the k-th points of all series together and suit many short series; a *filter* solves the recurrence of one
series by cumulative sums and suits a few long ones. The cheaper method is chosen by an estimate of costs.
"""

import math

import numpy as np
from attrs import frozen

from fleetcore.builtin.series_state import Grouped
from fleetcore.model.telemetry import Float64, Int64

#: The costs of a round and of a filtered series, in µs, measured on 2 shared cores; only their ratio matters.
_ROUND_COST, _FILTER_COST = 35.0, 150.0
#: Within a block of the filter old weights may shrink by this factor; beyond it the sums lose digits.
_SHRINK = 1e3


@frozen(eq=False)
class Before:
    """The state of its series just before each point, in grouped order."""

    count: Int64
    mean: Float64
    variance: Float64


@frozen(eq=False)
class Moments:
    """The state: one entry per series."""

    count: Int64
    mean: Float64
    variance: Float64


def advance(state: Moments, groups: Grouped, values: Float64, weight: float) -> Before:
    """Updates the state in place with grouped values; ``values`` are finite and below 1e145."""
    place = np.arange(len(values)) - np.repeat(groups.starts, groups.counts)
    before = Before(
        np.repeat(state.count[groups.ids], groups.counts) + place, np.empty(len(values)), np.empty(len(values))
    )
    longest = _longest_in_rounds(groups.counts)
    short = np.flatnonzero(groups.counts <= longest)
    if len(short):
        _in_rounds(state, groups, short, values, weight, before)
    for item in np.flatnonzero(groups.counts > longest):
        start = int(groups.starts[item])
        _filtered(state, int(groups.ids[item]), slice(start, start + int(groups.counts[item])), values, weight, before)
    state.count[groups.ids] += groups.counts
    return before


def _longest_in_rounds(counts: Int64) -> int:
    """The length up to which series are taken in rounds: a round per place, and a filter per longer series."""
    lengths, series = np.unique(counts, return_counts=True)
    longer = len(counts) - np.cumsum(series)
    costs = np.concatenate([[len(counts) * _FILTER_COST], lengths * _ROUND_COST + longer * _FILTER_COST])
    best = int(np.argmin(costs))
    return 0 if best == 0 else int(lengths[best - 1])


def _in_rounds(state: Moments, groups: Grouped, short: Int64, values: Float64, weight: float, before: Before) -> None:
    # Longest first: series that have a k-th point are a prefix, and its slices are views.
    by_length = short[np.argsort(-groups.counts[short], kind="stable")]
    ids, starts, counts = groups.ids[by_length], groups.starts[by_length], groups.counts[by_length]
    mean, variance = state.mean[ids], state.variance[ids]
    seen = state.count[ids]
    ends = np.searchsorted(-counts, -np.arange(int(counts[0])), side="left")
    for k, active in enumerate(ends.tolist()):
        points = starts[:active] + k
        m, v = mean[:active], variance[:active]
        before.mean[points], before.variance[points] = m, v
        w = np.maximum(weight, 1.0 / (seen[:active] + (k + 1)))
        d = values[points] - m
        m += w * d
        v[:] = (1.0 - w) * (v + w * d * d)
    state.mean[ids], state.variance[ids] = mean, variance


def _filtered(state: Moments, series: int, points: slice, values: Float64, weight: float, before: Before) -> None:
    x = values[points]
    seen, mean, variance = int(state.count[series]), float(state.mean[series]), float(state.variance[series])
    weights = np.maximum(weight, 1.0 / (seen + 1 + np.arange(len(x))))
    means, variances = before.mean[points], before.variance[points]
    at = 0
    if seen == 0:
        # The first point has weight 1: nothing of the earlier state is left, and the recurrence cannot be divided by
        # it.
        means[0], variances[0] = mean, variance
        mean, variance, at = float(x[0]), 0.0, 1
    step = max(1, int(math.log(_SHRINK) / -math.log1p(-weight)))
    while at < len(x):
        to = min(at + step, len(x))
        w, origin = weights[at:to], mean
        kept = np.cumprod(1.0 - w)
        # Relative to the block's first mean, so that a small spread on a high level keeps its digits.
        y = x[at:to] - origin
        after = kept * np.cumsum(w * y / kept)
        means[at] = origin
        means[at + 1 : to] = origin + after[:-1]
        d = y - np.concatenate([[0.0], after[:-1]])
        spread = kept * (variance + np.cumsum((1.0 - w) * w * d * d / kept))
        variances[at] = variance
        variances[at + 1 : to] = spread[:-1]
        mean, variance = origin + float(after[-1]), float(spread[-1])
        at = to
    state.mean[series], state.variance[series] = mean, variance
