"""Results of library calls: plain data with a readable representation, and a series as columns."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from fleetcore.errors import Refused
from fleetcore.wire.times import format_time

if TYPE_CHECKING:
    import numpy as np

    from fleetcore.calls.responses.telemetry import ReadingsResponse
    from fleetcore.model.telemetry import SeriesData, TextReading


class TelemetryView:
    """The points of a series: numpy columns ``time`` (int64 ms) and ``value`` (float64), and conversions.

    Where all readings are booleans, ``value`` is of bool; where they are of several kinds, or text, it is of Python
    objects, each of the kind that was sent.
    """

    def __init__(self, data: "SeriesData", texts: "Sequence[TextReading]" = ()) -> None:
        self.device, self.metric, self.unit = data.series.device, data.series.metric, data.series.unit
        self.time: np.ndarray[Any, Any] = data.time
        self.value: np.ndarray[Any, Any] = _values(data)
        self.quality: np.ndarray[Any, Any] = data.quality
        if texts:
            self._add(texts)

    @classmethod
    def of(cls, device: str, metric: str, parts: "Sequence[ReadingsResponse]") -> "TelemetryView":
        """The pages that ``list_readings`` gave for a device, at least one."""
        import numpy as np

        from fleetcore.model.telemetry import Quality, Series, SeriesData, TextReading

        points = [point for part in parts for point in part.points]
        numbers = [(time, value) for time, value in points if not isinstance(value, str)]
        data = SeriesData(
            series=Series(index=0, device=device, metric=metric, unit=parts[0].unit),
            time=np.array([time for time, _ in numbers], np.int64),
            value=np.array([value for _, value in numbers], np.float64),
            quality=np.array([Quality.BOOLEAN * isinstance(value, bool) for _, value in numbers], np.uint8),
        )
        return cls(data, [TextReading(0, time, 0, value) for time, value in points if isinstance(value, str)])

    def _add(self, texts: "Sequence[TextReading]") -> None:
        import numpy as np

        time = np.concatenate([self.time, np.array([text.time for text in texts], np.int64)])
        value = np.concatenate([self.value.astype(object), np.array([text.value for text in texts], object)])
        quality = np.concatenate([self.quality, np.array([text.quality for text in texts], np.uint8)])
        order = np.argsort(time, kind="stable")
        self.time, self.value, self.quality = time[order], value[order], quality[order]

    def __len__(self) -> int:
        return len(self.time)

    def __repr__(self) -> str:
        span = f", {format_time(int(self.time[0]))} to {format_time(int(self.time[-1]))}" if len(self) else ""
        return f"<{len(self)} points of {self.device}/{self.metric}{span}>"

    def _repr_html_(self) -> str:
        head = "".join(
            f"<tr><td>{format_time(int(t))}</td><td>{escape(_text(v))}</td></tr>"
            for t, v in zip(self.time[:20], self.value[:20], strict=True)
        )
        return f"<p>{escape(repr(self))}</p><table><tr><th>time</th><th>{escape(self.metric)}</th></tr>{head}</table>"

    def to_plain(self) -> dict[str, Any]:
        """Lists instead of columns; times as RFC 3339."""
        return {
            "device": self.device,
            "metric": self.metric,
            "unit": self.unit,
            "points": [[format_time(t), v] for t, v in zip(self.time.tolist(), self.value.tolist(), strict=True)],
        }

    def plot(self, axes: Any = None) -> Any:
        """Draws the numbers over time; returns matplotlib's figure, which a notebook shows. Needs matplotlib.

        The picture keeps the smallest and the largest value of every column, however many points there are.

        Args:
            axes: matplotlib's axes to draw on; a new figure without.

        Raises:
            Refused: matplotlib is not installed.
        """
        return plot(self, axes=axes)

    def to_pandas(self) -> Any:
        """A pandas Series indexed by UTC time; needs pandas."""
        import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

        return pd.Series(self.value, index=pd.to_datetime(self.time, unit="ms", utc=True), name=self.metric)

    def to_arrow(self) -> Any:
        """An Arrow table with columns time and value; needs pyarrow."""
        import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

        value = self.value if self.value.dtype != object else [_text(item) for item in self.value]
        return pa.table({"time": pa.array(self.time, pa.timestamp("ms", "UTC")), "value": value})


def plot(*views: TelemetryView, axes: Any = None) -> Any:
    """Draws several series over one time axis: a panel for each metric, with its devices; returns matplotlib's figure.

    Raises:
        Refused: matplotlib is not installed; or there are several metrics for given axes.
    """
    import numpy as np

    from fleetcore.plots import Band, draw

    panels: dict[str, list[Band]] = {}
    for view in views:
        time, value = view.time, view.value
        if value.dtype == object:  # numbers and text
            numbers = np.array([not isinstance(item, str) for item in value.tolist()], np.bool_)
            time, value = time[numbers], value[numbers]
        value = value.astype(np.float64)
        band = Band(label=view.device, unit=view.unit, time=time, low=value, high=value)
        panels.setdefault(view.metric, []).append(band)
    if axes is not None and len(panels) > 1:
        raise Refused("Given axes hold one metric", remedy="Call it once for each metric, or without axes")
    titles = {
        metric: f"{metric} of {bands[0].label}" if len(bands) == 1 else metric for metric, bands in panels.items()
    }
    return draw([(titles[metric], bands) for metric, bands in panels.items()], axes=axes)


def _values(data: "SeriesData") -> "np.ndarray[Any, Any]":
    import numpy as np

    from fleetcore.model.telemetry import booleans, shown

    flags = booleans(data.series, data.value, data.quality)
    if not flags.any():
        return data.value
    if flags.all():
        return data.value.astype(np.bool_)
    return np.array(shown(data.series, data.value, data.quality), object)


def _text(value: object) -> str:
    """A value as text, with JSON's spelling of booleans."""
    if isinstance(value, str):
        return value
    return ("false", "true")[bool(value)] if type(value).__name__ in ("bool", "bool_") else format(value, "g")
