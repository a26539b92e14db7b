"""The interned series of a store: every one in memory, by index and by name."""

from collections.abc import Iterable

from fleetcore.model.telemetry import Series


class Catalog:
    """Looks series up; a :class:`~fleetcore.model.telemetry.SeriesCatalog`. The store alone adds and removes."""

    def __init__(self) -> None:
        self._by_index: dict[int, Series] = {}
        self._by_name: dict[str, dict[str, Series]] = {}

    def __len__(self) -> int:
        return len(self._by_index)

    @property
    def top(self) -> int:
        """The largest index, 0 without series."""
        return max(self._by_index, default=0)

    def series(self, index: int) -> Series:
        """The series of ``index``; raises ``KeyError`` where it does not exist or is forgotten."""
        return self._by_index[index]

    def has(self, index: int) -> bool:
        """Whether a series of ``index`` exists."""
        return index in self._by_index

    def find(self, device: str, metric: str) -> Series | None:
        """The series of a device's metric, or None."""
        metrics = self._by_name.get(device)
        return metrics.get(metric) if metrics is not None else None

    def of(self, device: str | None) -> list[Series]:
        """All, or a device's, by device and metric."""
        chosen = self._by_index.values() if device is None else self._by_name.get(device, {}).values()
        return sorted(chosen, key=lambda series: (series.device, series.metric))

    def by_metric(self) -> dict[str, list[int]]:
        """The indices of all series, by metric."""
        found: dict[str, list[int]] = {}
        for index, series in list(self._by_index.items()):
            found.setdefault(series.metric, []).append(index)
        return found

    def add(self, some: Iterable[Series]) -> None:
        """Adds series that are durable."""
        for series in some:
            self._by_index[series.index] = series
            self._by_name.setdefault(series.device, {})[series.metric] = series

    def remove(self, device: str) -> None:
        """Forgets a device's series."""
        for series in self._by_name.pop(device, {}).values():
            del self._by_index[series.index]
