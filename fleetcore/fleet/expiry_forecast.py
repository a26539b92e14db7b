"""The forecast of certificates' expiries: by the devices' types or groups, for those that a query selects."""

from collections.abc import Callable, Iterable

from fleetcore.errors import Refused
from fleetcore.fleet.groups import Groups
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.search import Search
from fleetcore.fleet.security import SecurityManager
from fleetcore.fleet.security.forecast import Forecast, Period
from fleetcore.query.ast import Clause


class ExpiryForecast:
    """Combines the inventory of certificates with the registry of devices."""

    def __init__(self, security: SecurityManager, registry: Registry, groups: Groups, search: Search) -> None:
        self._security, self._registry, self._groups, self._search = security, registry, groups, search

    async def forecast(
        self,
        *,
        per: str = "week",
        periods: int = 12,
        by: str | None = None,
        where: str | Clause | None = None,
        next: int = 10,
    ) -> Forecast:
        """How many certificates expire in each of the next periods.

        Args:
            per: ``week`` or ``month``.
            by: ``type`` or ``group``, including the groups that contain a group; a device without a group counts under
                none.
            where: a query that selects the devices.
            next: how many of the next to expire, and of the late renewals, are listed.

        Raises Refused for another ``per`` or ``by``, QuerySyntaxError.
        """
        if per not in list(Period):
            raise Refused(f"Period {per!r} does not exist", remedy=f"Use one of: {', '.join(Period)}")
        only: Callable[[str], bool] = lambda _device: True  # noqa: E731 - the other branch is a method
        if where is not None:
            only = set(await self._search.ids(where)).__contains__
        return await self._security.forecast(
            per=Period(per), periods=periods, most=next, labels=await self._labels(by), only=only
        )

    async def _labels(self, by: str | None) -> Callable[[str], Iterable[str]] | None:
        if by is None:
            return None
        if by == "group":
            return self._groups.outermost_first
        if by == "type":
            types = {device.id: device.type async for device in self._registry.records.iterate()}
            return lambda device: (types[device],) if device in types else ()
        raise Refused(f"Certificates cannot be counted by {by!r}", remedy="Use one of: type, group")
