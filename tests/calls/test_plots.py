"""Pictures of series: no extreme is lost, gaps stay empty, and a notebook gets a figure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore import IoTFleetManager
from fleetcore.errors import Refused
from fleetcore.plots import Band, narrowed
from fleetcore.views import plot

START = 1_780_000_000_000


@given(st.integers(0, 2**32 - 1), st.integers(2, 200_000))
def test_a_narrowed_series_has_the_extremes_of_each_of_its_columns(seed, points):
    chance = np.random.default_rng(seed)
    time = START + np.cumsum(chance.integers(1, 1000, points))
    value = chance.normal(size=points)

    band = narrowed(Band(label="a", unit=None, time=time, low=value, high=value))

    assert len(band.time) <= 4000
    assert set(band.time) <= set(time)
    assert (band.low.min(), band.high.max()) == (value.min(), value.max())
    at = np.searchsorted(time, band.time)
    for first, last, low, high in zip(at, [*at[1:], points], band.low, band.high, strict=True):
        assert (low, high) == (value[first:last].min(), value[first:last].max())


@pytest.fixture
async def manager():
    async with IoTFleetManager() as manager:
        for device in ("pump-1", "pump-2"):
            await manager.register_device(device, "pump")
            rows = [(device, "heat", START + at * 1000, at % 7) for at in range(100) if not 40 <= at < 60]
            rows += [(device, "power", START + at * 1000, "off" if at == 3 else 2.0 * at) for at in range(5)]
            await manager.collect_many(rows)
        yield manager


async def test_a_series_is_a_figure(manager):
    figure = (await manager.query_telemetry("pump-1", "heat")).plot()

    (axes,) = figure.axes
    line = axes.lines[0]
    assert axes.get_title(loc="left") == "heat of pump-1"
    assert np.nanmax(line.get_ydata()) == 6
    assert np.isnan(line.get_ydata()).sum() == 1  # the gap


async def test_several_are_a_panel_for_each_metric(manager):
    views = [
        await manager.query_telemetry(device, metric) for metric in ("heat", "power") for device in ("pump-1", "pump-2")
    ]

    figure = plot(*views)

    assert [axes.get_title(loc="left") for axes in figure.axes] == ["heat", "power"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["pump-1", "pump-2"]
    with pytest.raises(Refused):
        plot(*views, axes=figure.axes[0])
    assert plot(views[0], axes=figure.axes[0]) is figure
