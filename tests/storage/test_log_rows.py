"""Rows of the log: what was packed comes back, in few and in many readings, and damage is named."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore.builtin.sqlite import log
from fleetcore.errors import StorageError
from fleetcore.model.telemetry import TelemetryBatch

_INT64 = st.integers(-(2**63), 2**63 - 1)
_COLUMNS = ("series", "time", "received", "value", "quality", "seq")


@st.composite
def logged(draw):
    n = draw(st.integers(1, 2 * log._FEW))

    def column(numbers, dtype):
        few = draw(st.one_of(st.lists(numbers, min_size=1, max_size=1), st.lists(numbers, min_size=n, max_size=n)))
        return np.array(few * (n if len(few) == 1 else 1), dtype)

    small = st.integers(0, 70_000)
    batch = TelemetryBatch(
        column(small, np.int64), column(_INT64, np.int64), column(_INT64 | small, np.int64),
        column(st.floats(allow_nan=False), np.float64), column(st.integers(0, 255), np.uint8), column(_INT64, np.int64),
    )  # fmt: skip
    shown = draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n))
    return log.Logged(batch, None if shown is None or all(shown) else np.array(shown))


@given(logged())
def test_a_row_gives_back_what_was_packed(wanted):
    found = log.unpack(log.pack(wanted))

    for name in _COLUMNS:
        column, other = getattr(found.batch, name), getattr(wanted.batch, name)
        assert column.dtype == other.dtype, name
        assert np.array_equal(column, other), name
    assert (found.shown is None) == (wanted.shown is None)
    assert found.shown is None or np.array_equal(found.shown, wanted.shown)


@given(logged(), st.data())
def test_a_damaged_row_is_a_named_error_or_another_row(wanted, data):
    row = bytearray(log.pack(wanted))
    cut = data.draw(st.integers(0, len(row)))
    place = data.draw(st.integers(0, len(row) - 1))
    row[place] ^= data.draw(st.integers(1, 255))

    with contextlib.suppress(StorageError):
        log.unpack(bytes(row[:cut]))


def test_a_row_of_another_format_is_refused():
    row = log.pack(log.Logged(TelemetryBatch.of([1], [2], [3.0])))

    with pytest.raises(StorageError, match="format 9"):
        log.unpack(b"\x09" + row[1:])
