"""Pictures of series with matplotlib, which is optional: the band from the smallest to the largest value over time.

No extreme is lost, however many points a series has: each column of the picture shows the smallest and the largest of
its values. A stretch without values stays empty.
"""

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

from attrs import frozen

from fleetcore.errors import Refused

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Columns of a picture: more than any screen or page shows.
_COLUMNS = 4000
#: Values are connected over a gap of up to so many times the usual distance between them.
CONNECTED = 4
#: Where buckets hold so many readings in the median, the readings are closer to each other than the buckets.
DENSE = 2
_COLOURS = {"anomaly": "#c62828", "twin": "#00838f", "firmware": "#2e7d32"}


@frozen(kw_only=True)
class Band:
    """A series: at each time (int64 ms) the smallest and the largest value (float64).

    Attributes:
        usual_ms: the usual distance between times; by default the median.
    """

    label: str
    unit: str | None
    time: "npt.NDArray[np.int64]"
    low: "npt.NDArray[np.float64]"
    high: "npt.NDArray[np.float64]"
    usual_ms: float | None = None


@frozen(kw_only=True)
class Mark:
    """A time (ms) to be marked; ``kind`` is anomaly, twin or firmware."""

    time: int
    kind: str


def narrowed(band: Band) -> Band:
    """The same in at most some thousand columns; each keeps its extremes."""
    import numpy as np

    if len(band.time) <= _COLUMNS:
        return band
    first, last = int(band.time[0]), int(band.time[-1])
    column = (band.time - first) * _COLUMNS // (last - first + 1)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    return Band(
        label=band.label,
        unit=band.unit,
        time=band.time[starts],
        low=np.minimum.reduceat(band.low, starts),
        high=np.maximum.reduceat(band.high, starts),
        usual_ms=max((last - first) / _COLUMNS, _usual_ms(band)),
    )


def draw(panels: Sequence[tuple[str, Sequence[Band]]], marks: Sequence[Mark] = (), axes: Any = None) -> Any:
    """A figure with a panel for each title and its series, all over one time axis; returns matplotlib's figure.

    Args:
        axes: matplotlib's axes to draw on, for one panel; a new figure without.

    Raises:
        Refused: matplotlib is not installed.
    """
    try:
        from matplotlib import dates as untyped
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Refused("Plots need matplotlib", remedy="pip install 'fleetcore[plot]'") from error
    dates: Any = untyped
    places: Sequence[Any] = [axes]
    figure = None if axes is None else axes.figure
    if figure is None:
        figure = Figure(figsize=(10, 2.6 * len(panels) + 0.6), layout="constrained")
        # A notebook looks for this method; by itself it shows only figures of pyplot.
        vars(figure)["_repr_png_"] = partial(_png, figure)
        places = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0].tolist()
    for place, (title, bands) in zip(places, panels, strict=True):
        for band in map(narrowed, bands):
            _draw_band(place, band)
        for kind in sorted({mark.kind for mark in marks}):
            times = [dates.num2date(mark.time / 86_400_000) for mark in marks if mark.kind == kind]
            for number, time in enumerate(times):
                place.axvline(time, color=_COLOURS[kind], linewidth=0.8, linestyle="--", label="" if number else kind)
        unit = next((band.unit for band in bands if band.unit), None)
        place.set_title(title, loc="left", fontsize="medium")
        place.set_ylabel(unit or "")
        place.grid(visible=True, linewidth=0.3)
        if len(bands) > 1 or marks:
            place.legend(fontsize="small", loc="upper right")
    locator = dates.AutoDateLocator(tz="UTC")
    places[-1].xaxis.set_major_locator(locator)
    places[-1].xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz="UTC"))
    return figure


def _png(figure: Any) -> bytes:
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _usual_ms(band: Band) -> float:
    import numpy as np

    if band.usual_ms is not None:
        return band.usual_ms
    return float(np.median(np.diff(band.time))) if len(band.time) > 1 else 0.0


def _draw_band(place: Any, band: Band) -> None:
    import numpy as np

    cuts = np.flatnonzero(np.diff(band.time) > _usual_ms(band) * CONNECTED) + 1
    time = band.time / 86_400_000  # matplotlib counts days since 1970
    # A value that is not a number ends the line.
    time, low, high = (np.insert(column, cuts, np.nan) for column in (time, band.low, band.high))
    (line,) = place.plot(time, (low + high) / 2, linewidth=0.8, label=band.label)
    place.fill_between(time, low, high, alpha=0.4, linewidth=0.6, color=line.get_color())
    alone = ~np.isfinite(np.append(low[1:], np.nan)) & ~np.isfinite(np.append(np.nan, low[:-1]))
    place.plot(time[alone], ((low + high) / 2)[alone], ".", markersize=3, color=line.get_color())
