"""Every call as a typed method. ``make generate`` writes this file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from fleetcore.calls.responses.groups import ChangedResponse, GroupResponse, MemberResponse, MembershipResponse
from fleetcore.calls.responses.health import HealthResponse
from fleetcore.calls.types import UNSET, Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from fleetcore.calls.groups import Description, DeviceIds, GroupName, Query, Within
    from fleetcore.calls.types import Cursor, DeviceId, IfVersion, Label, Limit, Ms, Reason, UnsetType

    Time = Ms | int | str | datetime
T = TypeVar("T")


class AsyncCalls(ABC):
    """The calls; what carries them out is in the classes that inherit this."""

    async def list_groups(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[GroupResponse]:
        """Lists the groups by name: all, or those that the caller's rights are limited to."""
        return await self._value("list_groups", {"limit": limit, "cursor": cursor}, Page[GroupResponse])

    def iter_groups(self) -> AsyncIterator[GroupResponse]:
        """Goes through all that ``list_groups`` lists, page by page."""
        return self._pages("list_groups", {}, GroupResponse)

    async def create_group(
        self,
        id: Label,
        *,
        query: Query | None = None,
        within: Within = (),
        description: Description = "",
        reason: Reason = "",
    ) -> GroupResponse:
        """Makes a group: static, or dynamic with a query; a dynamic group has its devices when this returns.

        Raises:
            Conflict: there is a group of that name.
            QuerySyntaxError: the query cannot be read.
        """
        return await self._value(
            "create_group",
            {"id": id, "query": query, "within": within, "description": description, "reason": reason},
            GroupResponse,
        )

    async def get_group(self, group: GroupName) -> GroupResponse:
        """Shows a group and how many devices are in it.

        Raises:
            NotFound: there is no such group.
        """
        return await self._value("get_group", {"group": group}, GroupResponse)

    async def update_group(
        self,
        group: GroupName,
        *,
        query: Query | UnsetType = UNSET,
        within: Within | UnsetType = UNSET,
        description: Description | UnsetType = UNSET,
        if_version: IfVersion | None = None,
        reason: Reason = "",
    ) -> GroupResponse:
        """Changes the query of a group, the groups it lies in, or its description; what is not given stays.

        Raises:
            NotFound: there is no such group.
            VersionConflict: the group is not at ``if_version``.
        """
        return await self._value(
            "update_group",
            {
                "group": group,
                "query": query,
                "within": within,
                "description": description,
                "if_version": if_version,
                "reason": reason,
            },
            GroupResponse,
        )

    async def remove_group(self, group: GroupName, *, if_version: IfVersion | None = None, reason: Reason = "") -> None:
        """Removes a group; its devices stay.

        Raises:
            NotFound: there is no such group.
            VersionConflict: the group is not at ``if_version``.
        """
        await self._value("remove_group", {"group": group, "if_version": if_version, "reason": reason}, type(None))

    async def list_group_members(
        self, group: GroupName, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[MemberResponse]:
        """Lists the devices in a group and in the groups within it, in the order of their ids.

        Raises:
            NotFound: there is no such group.
        """
        return await self._value(
            "list_group_members", {"group": group, "limit": limit, "cursor": cursor}, Page[MemberResponse]
        )

    def iter_group_members(self, group: GroupName) -> AsyncIterator[MemberResponse]:
        """Goes through all that ``list_group_members`` lists, page by page.

        Raises:
            NotFound: there is no such group.
        """
        return self._pages("list_group_members", {"group": group}, MemberResponse)

    async def add_to_group(self, group: GroupName, devices: DeviceIds, *, reason: Reason = "") -> ChangedResponse:
        """Puts devices into a static group, all or none; answers how many were not in it.

        Raises:
            NotFound: there is no such group, or no such device.
            Refused: the group is dynamic.
        """
        return await self._value(
            "add_to_group", {"group": group, "devices": devices, "reason": reason}, ChangedResponse
        )

    async def remove_from_group(self, group: GroupName, device_id: DeviceId, *, reason: Reason = "") -> ChangedResponse:
        """Takes a device out of a static group; answers 0 where it was not in it.

        Raises:
            NotFound: there is no such group, or no such device.
            Refused: the group is dynamic.
        """
        return await self._value(
            "remove_from_group", {"group": group, "device_id": device_id, "reason": reason}, ChangedResponse
        )

    async def list_device_groups(self, device_id: DeviceId) -> Page[MembershipResponse]:
        """Lists the groups that a device is in itself, each with since when and why.

        Raises:
            NotFound: there is no such device.
        """
        return await self._value("list_device_groups", {"device_id": device_id}, Page[MembershipResponse])

    def iter_device_groups(self, device_id: DeviceId) -> AsyncIterator[MembershipResponse]:
        """Goes through all that ``list_device_groups`` lists, page by page.

        Raises:
            NotFound: there is no such device.
        """
        return self._pages("list_device_groups", {"device_id": device_id}, MembershipResponse)

    async def get_group_health(self, group: GroupName) -> HealthResponse:
        """Shows the health of the group's devices that the caller may see.

        Raises:
            NotFound: there is no such group.
        """
        return await self._value("get_group_health", {"group": group}, HealthResponse)

    @abstractmethod
    async def _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:
        """The answer of a call; raises what the call raises."""

    @abstractmethod
    def _pages(self, name: str, given: Mapping[str, Any], kind: type[T]) -> AsyncIterator[T]:
        """All items of a list, page by page."""
