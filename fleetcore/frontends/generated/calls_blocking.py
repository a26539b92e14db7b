"""Every call as a typed method, blocking. ``make generate`` writes this file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from fleetcore.calls.responses.audit import AuditRowResponse, VerdictResponse
from fleetcore.calls.responses.certificates import CertificateResponse
from fleetcore.calls.responses.commands import CommandCountsResponse, CommandResponse, PlanResponse
from fleetcore.calls.responses.devices import ChangeResponse, DeviceResponse, PositionResponse, ProvisionedResponse
from fleetcore.calls.responses.edge import GatewayResponse
from fleetcore.calls.responses.enrollment import (
    ClaimCredentialResponse,
    ClaimResponse,
    EnrollmentResponse,
    EnrollmentTokenResponse,
    ManufacturerResponse,
    SecretResponse,
)
from fleetcore.calls.responses.groups import ChangedResponse, GroupResponse, MemberResponse, MembershipResponse
from fleetcore.calls.responses.health import HealthResponse
from fleetcore.calls.responses.layers import LayerResponse
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.responses.operators import NewTokenResponse, RoleResponse, TokenResponse
from fleetcore.calls.responses.server import InstanceResponse, PluginResponse, StatusResponse
from fleetcore.calls.responses.twins import TwinChangeResponse, TwinResponse
from fleetcore.calls.types import UNSET, Json, Page
from fleetcore.frontends.catalogue import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fleetcore.calls.audit import ActorName, Checkpoints, ObjectName, RowNumber
    from fleetcore.calls.certificates import CertificateHolder, CertificateId
    from fleetcore.calls.commands import (
        Arguments,
        Cap,
        CommandId,
        CommandName,
        DeliverWithin,
        DeviceChoice,
        ExecuteWithin,
        Lane,
        OperationId,
        PlanDigest,
        Precondition,
        RatePerS,
        Respond,
        ResultWithin,
        Supersede,
        Unfinished,
        WaitS,
    )
    from fleetcore.calls.devices import (
        Attributes,
        Capabilities,
        Configuration,
        Gateway,
        KeyId,
        Model,
        Name,
        Place,
        TagName,
        Tags,
        Type,
        TypeName,
    )
    from fleetcore.calls.edge import GatewayCapabilities, MayRegister
    from fleetcore.calls.enrollment import (
        Admission,
        ClaimDays,
        ClaimModels,
        ClaimQuota,
        ClaimRate,
        ClaimSerials,
        EnrollmentId,
        EnrollmentTokenId,
        ManufacturerName,
        ManufacturerPem,
        ManufacturerProof,
        Networks,
        NewDeviceModel,
        NewDeviceTags,
        NewDeviceType,
        Replace,
        StaticGroups,
        TokenDevice,
        TokenSeconds,
        TokenUses,
        WantedState,
    )
    from fleetcore.calls.groups import Description, DeviceIds, GroupName, Query, Within
    from fleetcore.calls.layers import Kind, LayerGroup, LayerPatch, Priority
    from fleetcore.calls.operators import Permissions, Principal, RecordId, Roles, RoleScope, TokenDays
    from fleetcore.calls.twins import AttributesVersion, DesiredVersion, TwinPatch, TwinSection
    from fleetcore.calls.types import (
        BatchName,
        Cursor,
        DeviceId,
        IdempotencyKey,
        IfVersion,
        Label,
        Limit,
        Ms,
        Reason,
        UnsetType,
        Where,
    )
    from fleetcore.model.device import Lifecycle
    from fleetcore.model.operator import Role

    Time = Ms | int | str | datetime
T = TypeVar("T")


class BlockingCalls(ABC):
    """The calls; what carries them out is in the classes that inherit this."""

    def list_devices(
        self,
        *,
        type: TypeName | None = None,
        tag: TagName | None = None,
        where: Where | None = None,
        limit: Limit = 100,
        cursor: Cursor | None = None,
    ) -> Page[DeviceResponse]:
        """Lists devices in the order of their ids: of a type, with a tag, or selected by a query.

        A page may be short and have a ``next`` where a query selects few of many.

        Raises:
            QuerySyntaxError: the query cannot be read.
        """
        return self._value(
            "list_devices",
            {"type": type, "tag": tag, "where": where, "limit": limit, "cursor": cursor},
            Page[DeviceResponse],
        )

    def iter_devices(
        self, *, type: TypeName | None = None, tag: TagName | None = None, where: Where | None = None
    ) -> Iterator[DeviceResponse]:
        """Goes through all that ``list_devices`` lists, page by page.

        A page may be short and have a ``next`` where a query selects few of many.

        Raises:
            QuerySyntaxError: the query cannot be read.
        """
        return self._pages("list_devices", {"type": type, "tag": tag, "where": where}, DeviceResponse)

    def create_device(
        self,
        id: DeviceId,
        type: Type = "device",
        *,
        model: Model | None = None,
        name: Name | None = None,
        tags: Tags = (),
        capabilities: Capabilities = (),
        attributes: Attributes | None = None,
        location: Place | None = None,
        gateway: Gateway | None = None,
        key_id: KeyId | None = None,
        reason: Reason = "",
    ) -> DeviceResponse:
        """Registers a device.

        It needs the permission for the whole fleet: a new device is in nobody's scope yet.

        Raises:
            Conflict: there is a device of that id.
            NotFound: the gateway is not registered.
        """
        return self._value(
            "create_device",
            {
                "id": id,
                "type": type,
                "model": model,
                "name": name,
                "tags": tags,
                "capabilities": capabilities,
                "attributes": attributes,
                "location": location,
                "gateway": gateway,
                "key_id": key_id,
                "reason": reason,
            },
            DeviceResponse,
        )

    def get_device(self, device_id: DeviceId) -> DeviceResponse:
        """Shows a device with what is seen of it.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("get_device", {"device_id": device_id}, DeviceResponse)

    def update_device(
        self,
        device_id: DeviceId,
        *,
        model: Model | UnsetType | None = UNSET,
        name: Name | UnsetType | None = UNSET,
        tags: Tags | UnsetType = UNSET,
        capabilities: Capabilities | UnsetType = UNSET,
        attributes: Attributes | UnsetType = UNSET,
        location: Place | UnsetType | None = UNSET,
        gateway: Gateway | UnsetType | None = UNSET,
        key_id: KeyId | UnsetType | None = UNSET,
        if_version: IfVersion | None = None,
        reason: Reason = "",
    ) -> DeviceResponse:
        """Changes what is registered of a device; what is not given stays, None clears.

        Raises:
            NotFound: there is no such device, or no such gateway.
            VersionConflict: the device is not at ``if_version``.
        """
        return self._value(
            "update_device",
            {
                "device_id": device_id,
                "model": model,
                "name": name,
                "tags": tags,
                "capabilities": capabilities,
                "attributes": attributes,
                "location": location,
                "gateway": gateway,
                "key_id": key_id,
                "if_version": if_version,
                "reason": reason,
            },
            DeviceResponse,
        )

    def set_lifecycle(
        self, device_id: DeviceId, state: Lifecycle | str, *, if_version: IfVersion | None = None, reason: Reason = ""
    ) -> DeviceResponse:
        """Suspends, quarantines, activates or retires a device.

        A suspended device is refused; the readings of a quarantined one are kept and flagged, and it gets no commands and
        no firmware. Retiring is for good: the device's credentials are revoked and its sessions end.

        Raises:
            NotFound: there is no such device.
            IllegalTransition: the device cannot go there from where it is.
            VersionConflict: the device is not at ``if_version``.
        """
        return self._value(
            "set_lifecycle",
            {"device_id": device_id, "state": state, "if_version": if_version, "reason": reason},
            DeviceResponse,
        )

    def retire_device(self, device_id: DeviceId, *, if_version: IfVersion | None = None, reason: Reason = "") -> None:
        """Retires a device: its credentials end, its data stays.

        Raises:
            NotFound: there is no such device.
            VersionConflict: the device is not at ``if_version``.
        """
        self._value("retire_device", {"device_id": device_id, "if_version": if_version, "reason": reason}, type(None))

    def erase_device(self, device_id: DeviceId, *, if_version: IfVersion | None = None, reason: Reason = "") -> None:
        """Retires a device and erases it with its readings and its state, for good; the audit log stays.

        Raises:
            NotFound: there is no such device.
            VersionConflict: the device is not at ``if_version``.
        """
        self._value("erase_device", {"device_id": device_id, "if_version": if_version, "reason": reason}, type(None))

    def provision_device(
        self, device_id: DeviceId, configuration: Configuration, *, reason: Reason = ""
    ) -> ProvisionedResponse:
        """Writes the desired configuration and moves a registered device to provisioned; issues nothing.

        The same configuration again changes nothing; another one is a new version. It needs the right to change the
        device beside that to change its twin.

        Raises:
            NotFound: there is no such device.
        """
        return self._value(
            "provision_device",
            {"device_id": device_id, "configuration": configuration, "reason": reason},
            ProvisionedResponse,
        )

    def list_device_history(
        self, device_id: DeviceId, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[ChangeResponse]:
        """Lists who changed what of a device, when and why, the oldest first; values are not in it.

        Events that the caller may not see are left out, so a page may be short and have a ``next``.

        Raises:
            NotFound: there is no such device.
        """
        return self._value(
            "list_device_history", {"device_id": device_id, "limit": limit, "cursor": cursor}, Page[ChangeResponse]
        )

    def iter_device_history(self, device_id: DeviceId) -> Iterator[ChangeResponse]:
        """Goes through all that ``list_device_history`` lists, page by page.

        Events that the caller may not see are left out, so a page may be short and have a ``next``.

        Raises:
            NotFound: there is no such device.
        """
        return self._pages("list_device_history", {"device_id": device_id}, ChangeResponse)

    def get_location(self, device_id: DeviceId) -> PositionResponse:
        """Shows the newest position of a device.

        Raises:
            NotFound: there is no such device, or it has no position.
        """
        return self._value("get_location", {"device_id": device_id}, PositionResponse)

    def list_groups(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[GroupResponse]:
        """Lists the groups by name: all, or those that the caller's rights are limited to."""
        return self._value("list_groups", {"limit": limit, "cursor": cursor}, Page[GroupResponse])

    def iter_groups(self) -> Iterator[GroupResponse]:
        """Goes through all that ``list_groups`` lists, page by page."""
        return self._pages("list_groups", {}, GroupResponse)

    def create_group(
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
        return self._value(
            "create_group",
            {"id": id, "query": query, "within": within, "description": description, "reason": reason},
            GroupResponse,
        )

    def get_group(self, group: GroupName) -> GroupResponse:
        """Shows a group and how many devices are in it.

        Raises:
            NotFound: there is no such group.
        """
        return self._value("get_group", {"group": group}, GroupResponse)

    def update_group(
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
        return self._value(
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

    def remove_group(self, group: GroupName, *, if_version: IfVersion | None = None, reason: Reason = "") -> None:
        """Removes a group; its devices stay.

        Raises:
            NotFound: there is no such group.
            VersionConflict: the group is not at ``if_version``.
        """
        self._value("remove_group", {"group": group, "if_version": if_version, "reason": reason}, type(None))

    def list_group_members(
        self, group: GroupName, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[MemberResponse]:
        """Lists the devices in a group and in the groups within it, in the order of their ids.

        Raises:
            NotFound: there is no such group.
        """
        return self._value(
            "list_group_members", {"group": group, "limit": limit, "cursor": cursor}, Page[MemberResponse]
        )

    def iter_group_members(self, group: GroupName) -> Iterator[MemberResponse]:
        """Goes through all that ``list_group_members`` lists, page by page.

        Raises:
            NotFound: there is no such group.
        """
        return self._pages("list_group_members", {"group": group}, MemberResponse)

    def add_to_group(self, group: GroupName, devices: DeviceIds, *, reason: Reason = "") -> ChangedResponse:
        """Puts devices into a static group, all or none; answers how many were not in it.

        Raises:
            NotFound: there is no such group, or no such device.
            Refused: the group is dynamic.
        """
        return self._value("add_to_group", {"group": group, "devices": devices, "reason": reason}, ChangedResponse)

    def remove_from_group(self, group: GroupName, device_id: DeviceId, *, reason: Reason = "") -> ChangedResponse:
        """Takes a device out of a static group; answers 0 where it was not in it.

        Raises:
            NotFound: there is no such group, or no such device.
            Refused: the group is dynamic.
        """
        return self._value(
            "remove_from_group", {"group": group, "device_id": device_id, "reason": reason}, ChangedResponse
        )

    def list_device_groups(self, device_id: DeviceId) -> Page[MembershipResponse]:
        """Lists the groups that a device is in itself, each with since when and why.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("list_device_groups", {"device_id": device_id}, Page[MembershipResponse])

    def list_gateways(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[GatewayResponse]:
        """Lists the gateways by id."""
        return self._value("list_gateways", {"limit": limit, "cursor": cursor}, Page[GatewayResponse])

    def iter_gateways(self) -> Iterator[GatewayResponse]:
        """Goes through all that ``list_gateways`` lists, page by page."""
        return self._pages("list_gateways", {}, GatewayResponse)

    def register_gateway(
        self,
        id: DeviceId,
        capabilities: GatewayCapabilities | None = None,
        *,
        may_register: MayRegister = False,
        reason: Reason = "",
    ) -> GatewayResponse:
        """Registers a gateway, or makes a registered device one."""
        return self._value(
            "register_gateway",
            {"id": id, "capabilities": capabilities, "may_register": may_register, "reason": reason},
            GatewayResponse,
        )

    def list_leaves(
        self, gateway_id: DeviceId, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[DeviceResponse]:
        """Lists the devices that a gateway speaks for, by id.

        Raises:
            NotFound: there is no such device.
        """
        return self._value(
            "list_leaves", {"gateway_id": gateway_id, "limit": limit, "cursor": cursor}, Page[DeviceResponse]
        )

    def iter_leaves(self, gateway_id: DeviceId) -> Iterator[DeviceResponse]:
        """Goes through all that ``list_leaves`` lists, page by page.

        Raises:
            NotFound: there is no such device.
        """
        return self._pages("list_leaves", {"gateway_id": gateway_id}, DeviceResponse)

    def attach_leaf(self, gateway_id: DeviceId, device: DeviceId, *, reason: Reason = "") -> DeviceResponse:
        """Makes a gateway speak for a registered device; again does nothing more.

        Raises:
            NotFound: there is no such gateway, or no such device.
        """
        return self._value(
            "attach_leaf", {"gateway_id": gateway_id, "device": device, "reason": reason}, DeviceResponse
        )

    def detach_leaf(self, gateway_id: DeviceId, device_id: DeviceId, *, reason: Reason = "") -> None:
        """Ends that a gateway speaks for a device.

        Raises:
            NotFound: there is no such gateway, no such device, or the gateway does not speak for it.
        """
        self._value("detach_leaf", {"gateway_id": gateway_id, "device_id": device_id, "reason": reason}, type(None))

    def get_twin(self, device_id: DeviceId) -> TwinResponse:
        """Shows the twin of a device: what is desired, what is reported, what differs and since when, and the attributes.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("get_twin", {"device_id": device_id}, TwinResponse)

    def set_desired(
        self, device_id: DeviceId, patch: TwinPatch, *, if_version: DesiredVersion | None = None, reason: Reason = ""
    ) -> TwinResponse:
        """Merges a patch into what is desired of a device; a patch that changes nothing makes no new version.

        Raises:
            NotFound: there is no such device.
            Refused: the section would exceed a limit, or the patch sets the key ``fleetcore``.
            VersionConflict: the desired section is not at ``if_version``.
        """
        return self._value(
            "set_desired",
            {"device_id": device_id, "patch": patch, "if_version": if_version, "reason": reason},
            TwinResponse,
        )

    def set_attributes(
        self, device_id: DeviceId, patch: TwinPatch, *, if_version: AttributesVersion | None = None, reason: Reason = ""
    ) -> TwinResponse:
        """Merges a patch into the attributes of a device, which the device does not see.

        Raises:
            NotFound: there is no such device.
            Refused: the attributes would exceed a limit.
            VersionConflict: the device is not at ``if_version``.
        """
        return self._value(
            "set_attributes",
            {"device_id": device_id, "patch": patch, "if_version": if_version, "reason": reason},
            TwinResponse,
        )

    def list_twin_history(self, device_id: DeviceId, *, section: TwinSection = "desired") -> Page[TwinChangeResponse]:
        """Lists the kept changes of a section, the newest first, each with the patch that takes it back.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("list_twin_history", {"device_id": device_id, "section": section}, Page[TwinChangeResponse])

    def get_past_twin(self, device_id: DeviceId, at: Time, *, section: TwinSection = "desired") -> Json:
        """Shows a section of a device's twin as it was at a time.

        Args:
            at: the time, RFC 3339 or ms since the epoch.

        Raises:
            NotFound: there is no such device, or its history does not reach back that far.
        """
        return self._value("get_past_twin", {"device_id": device_id, "at": at, "section": section}, Json)

    def list_layers(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[LayerResponse]:
        """Lists the layers by name.

        A later kind (fleet, group, policy) overrides, and among layers of a kind the greater priority.
        """
        return self._value("list_layers", {"limit": limit, "cursor": cursor}, Page[LayerResponse])

    def iter_layers(self) -> Iterator[LayerResponse]:
        """Goes through all that ``list_layers`` lists, page by page.

        A later kind (fleet, group, policy) overrides, and among layers of a kind the greater priority.
        """
        return self._pages("list_layers", {}, LayerResponse)

    def get_layer(self, layer: Label) -> LayerResponse:
        """Shows a layer.

        Raises:
            NotFound: there is no such layer.
        """
        return self._value("get_layer", {"layer": layer}, LayerResponse)

    def set_layer(
        self,
        layer: Label,
        patch: LayerPatch,
        *,
        kind: Kind | str = "fleet",
        group: LayerGroup | None = None,
        priority: Priority = 0,
        if_version: IfVersion | None = None,
        reason: Reason = "",
    ) -> LayerResponse:
        """Merges a patch into a layer, or makes the layer; its devices follow.

        Raises:
            NotFound: there is no such group.
            Refused: a group layer without a group, a fleet layer with one, another kind or group than before, a limit of
                twins, or the key ``fleetcore``.
            VersionConflict: the layer is not at ``if_version``.
        """
        return self._value(
            "set_layer",
            {
                "layer": layer,
                "patch": patch,
                "kind": kind,
                "group": group,
                "priority": priority,
                "if_version": if_version,
                "reason": reason,
            },
            LayerResponse,
        )

    def remove_layer(self, layer: Label, *, reason: Reason = "") -> None:
        """Removes a layer; its devices fall back to what is below it.

        Raises:
            NotFound: there is no such layer.
        """
        self._value("remove_layer", {"layer": layer, "reason": reason}, type(None))

    def list_commands(
        self, *, unfinished: Unfinished = False, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[CommandResponse]:
        """Lists commands in the order in which they were issued."""
        return self._value(
            "list_commands", {"unfinished": unfinished, "limit": limit, "cursor": cursor}, Page[CommandResponse]
        )

    def iter_commands(self, *, unfinished: Unfinished = False) -> Iterator[CommandResponse]:
        """Goes through all that ``list_commands`` lists, page by page."""
        return self._pages("list_commands", {"unfinished": unfinished}, CommandResponse)

    def list_device_commands(
        self, device_id: DeviceId, *, unfinished: Unfinished = False, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[CommandResponse]:
        """Lists the commands of a device in the order in which they were issued.

        Raises:
            NotFound: there is no such device.
        """
        return self._value(
            "list_device_commands",
            {"device_id": device_id, "unfinished": unfinished, "limit": limit, "cursor": cursor},
            Page[CommandResponse],
        )

    def iter_device_commands(self, device_id: DeviceId, *, unfinished: Unfinished = False) -> Iterator[CommandResponse]:
        """Goes through all that ``list_device_commands`` lists, page by page.

        Raises:
            NotFound: there is no such device.
        """
        return self._pages("list_device_commands", {"device_id": device_id, "unfinished": unfinished}, CommandResponse)

    def send_command(
        self,
        device_id: DeviceId,
        name: CommandName,
        args: Arguments | None = None,
        *,
        lane: Lane = "default",
        respond: Respond = "result",
        deliver_within_s: DeliverWithin = 86400.0,
        execute_within_s: ExecuteWithin = 86400.0,
        result_within_s: ResultWithin = 90000.0,
        supersede: Supersede | None = None,
        precondition: Precondition | None = None,
        wait_s: WaitS = 0.0,
        idempotency_key: IdempotencyKey | None = None,
        reason: Reason = "",
    ) -> CommandResponse:
        """Queues a command to a device; with ``wait_s`` waits that long for its end.

        The answer is the command as it stands then. Waiting ends at once where the caller may not send it any more. The
        command carries its key, so that it is sent once also where a crash took the answer.

        Raises:
            NotFound: there is no such device.
            Conflict: the device is retired.
            QuerySyntaxError: the precondition cannot be read.
            Refused: the arguments exceed a limit, or the key came with another command.
        """
        return self._value(
            "send_command",
            {
                "device_id": device_id,
                "name": name,
                "args": args,
                "lane": lane,
                "respond": respond,
                "deliver_within_s": deliver_within_s,
                "execute_within_s": execute_within_s,
                "result_within_s": result_within_s,
                "supersede": supersede,
                "precondition": precondition,
                "wait_s": wait_s,
                "idempotency_key": idempotency_key,
                "reason": reason,
            },
            CommandResponse,
        )

    def plan_commands(
        self,
        name: CommandName,
        args: Arguments | None = None,
        *,
        where: Where | None = None,
        devices: DeviceChoice = (),
        cap: Cap = 1000,
        lane: Lane = "default",
        respond: Respond = "result",
        deliver_within_s: DeliverWithin = 86400.0,
        execute_within_s: ExecuteWithin = 86400.0,
        result_within_s: ResultWithin = 90000.0,
        supersede: Supersede | None = None,
        precondition: Precondition | None = None,
        rate_per_s: RatePerS | None = None,
        reason: Reason = "",
    ) -> PlanResponse:
        """Tells which devices a command would reach: those of a query or of a list on which the caller may send commands.

        It takes what ``send_commands`` takes; the rate and the reason change no plan.

        Raises:
            NotFound: there is no such device.
            QuerySyntaxError: the query or the precondition cannot be read.
            Refused: neither or both of ``where`` and ``devices``, or the arguments exceed a limit.
        """
        return self._value(
            "plan_commands",
            {
                "name": name,
                "args": args,
                "where": where,
                "devices": devices,
                "cap": cap,
                "lane": lane,
                "respond": respond,
                "deliver_within_s": deliver_within_s,
                "execute_within_s": execute_within_s,
                "result_within_s": result_within_s,
                "supersede": supersede,
                "precondition": precondition,
                "rate_per_s": rate_per_s,
                "reason": reason,
            },
            PlanResponse,
        )

    def send_commands(
        self,
        name: CommandName,
        args: Arguments | None = None,
        *,
        where: Where | None = None,
        devices: DeviceChoice = (),
        plan: PlanDigest | None = None,
        cap: Cap = 1000,
        rate_per_s: RatePerS | None = None,
        lane: Lane = "default",
        respond: Respond = "result",
        deliver_within_s: DeliverWithin = 86400.0,
        execute_within_s: ExecuteWithin = 86400.0,
        result_within_s: ResultWithin = 90000.0,
        supersede: Supersede | None = None,
        precondition: Precondition | None = None,
        idempotency_key: IdempotencyKey | None = None,
        reason: Reason = "",
    ) -> OperationResponse:
        """Sends a command to the devices that ``plan_commands`` told, in the background.

        Raises:
            NotFound: there is no such device.
            Conflict: ``plan_changed``, other devices are selected now.
            Refused: ``precondition_required`` without a plan, ``limit_exceeded`` beyond the cap, and as
                ``plan_commands``.
        """
        return self._value(
            "send_commands",
            {
                "name": name,
                "args": args,
                "where": where,
                "devices": devices,
                "plan": plan,
                "cap": cap,
                "rate_per_s": rate_per_s,
                "lane": lane,
                "respond": respond,
                "deliver_within_s": deliver_within_s,
                "execute_within_s": execute_within_s,
                "result_within_s": result_within_s,
                "supersede": supersede,
                "precondition": precondition,
                "idempotency_key": idempotency_key,
                "reason": reason,
            },
            OperationResponse,
        )

    def get_command(self, command: CommandId) -> CommandResponse:
        """Shows a command and how far it is.

        Raises:
            NotFound: there is no such command.
        """
        return self._value("get_command", {"command": command}, CommandResponse)

    def cancel_command(self, command: CommandId, *, reason: Reason = "") -> CommandResponse:
        """Cancels a command: at once where it was not sent, else by asking the device; again does nothing more.

        Raises:
            NotFound: there is no such command.
            Conflict: it has ended otherwise.
        """
        return self._value("cancel_command", {"command": command, "reason": reason}, CommandResponse)

    def count_commands(self, operation: OperationId) -> CommandCountsResponse:
        """Counts the commands that an operation sent, by state.

        Raises:
            NotFound: there is no such operation.
        """
        return self._value("count_commands", {"operation": operation}, CommandCountsResponse)

    def get_fleet_health(self) -> HealthResponse:
        """Shows the fleet's health: a score, its parts, and the counts behind them."""
        return self._value("get_fleet_health", {}, HealthResponse)

    def get_group_health(self, group: GroupName) -> HealthResponse:
        """Shows the health of the group's devices that the caller may see.

        Raises:
            NotFound: there is no such group.
        """
        return self._value("get_group_health", {"group": group}, HealthResponse)

    def get_device_health(self, device_id: DeviceId) -> HealthResponse:
        """Shows the health of a device.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("get_device_health", {"device_id": device_id}, HealthResponse)

    def list_enrollment_tokens(
        self, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[EnrollmentTokenResponse]:
        """Lists the enrolment tokens by id, without their secrets."""
        return self._value("list_enrollment_tokens", {"limit": limit, "cursor": cursor}, Page[EnrollmentTokenResponse])

    def iter_enrollment_tokens(self) -> Iterator[EnrollmentTokenResponse]:
        """Goes through all that ``list_enrollment_tokens`` lists, page by page."""
        return self._pages("list_enrollment_tokens", {}, EnrollmentTokenResponse)

    def create_enrollment_token(
        self,
        device: TokenDevice | None = None,
        *,
        uses: TokenUses = 1,
        ttl_s: TokenSeconds = 86400.0,
        device_type: NewDeviceType = "device",
        groups: StaticGroups = (),
        networks: Networks = (),
        reason: Reason = "",
    ) -> SecretResponse:
        """Makes an enrolment token, for one registered device or for new devices. It is shown once.

        A token for new devices needs the permission for the whole fleet.

        Raises:
            NotFound: there is no such device, or no such group.
            Refused: a group is dynamic, a network cannot be read, or groups are given for one device.
        """
        return self._value(
            "create_enrollment_token",
            {
                "device": device,
                "uses": uses,
                "ttl_s": ttl_s,
                "device_type": device_type,
                "groups": groups,
                "networks": networks,
                "reason": reason,
            },
            SecretResponse,
        )

    def revoke_enrollment_token(self, token_id: EnrollmentTokenId, *, reason: Reason = "") -> EnrollmentTokenResponse:
        """Revokes an enrolment token; devices that enrolled with it stay.

        Raises:
            NotFound: there is no such token.
        """
        return self._value("revoke_enrollment_token", {"token_id": token_id, "reason": reason}, EnrollmentTokenResponse)

    def list_claims(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[ClaimResponse]:
        """Lists the batches that have a claim certificate, and how many of their devices have enrolled."""
        return self._value("list_claims", {"limit": limit, "cursor": cursor}, Page[ClaimResponse])

    def iter_claims(self) -> Iterator[ClaimResponse]:
        """Goes through all that ``list_claims`` lists, page by page."""
        return self._pages("list_claims", {}, ClaimResponse)

    def create_claim(
        self,
        batch: BatchName,
        quota: ClaimQuota,
        *,
        days: ClaimDays = 90.0,
        device_type: NewDeviceType = "device",
        tags: NewDeviceTags = (),
        models: ClaimModels = (),
        serials: ClaimSerials = (),
        per_minute: ClaimRate = 60,
        reason: Reason = "",
    ) -> ClaimCredentialResponse:
        """Creates a claim certificate, with which the devices of a batch enrol. Its key is shown once.

        Raises:
            Conflict: there is a batch of that name.
        """
        return self._value(
            "create_claim",
            {
                "batch": batch,
                "quota": quota,
                "days": days,
                "device_type": device_type,
                "tags": tags,
                "models": models,
                "serials": serials,
                "per_minute": per_minute,
                "reason": reason,
            },
            ClaimCredentialResponse,
        )

    def disable_claim(self, batch: BatchName, *, reason: Reason = "") -> ClaimResponse:
        """Disables the claim certificate of a batch at once; enrolled devices stay.

        Raises:
            NotFound: there is no such batch.
        """
        return self._value("disable_claim", {"batch": batch, "reason": reason}, ClaimResponse)

    def list_manufacturers(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[ManufacturerResponse]:
        """Lists the manufacturers' CAs by name."""
        return self._value("list_manufacturers", {"limit": limit, "cursor": cursor}, Page[ManufacturerResponse])

    def iter_manufacturers(self) -> Iterator[ManufacturerResponse]:
        """Goes through all that ``list_manufacturers`` lists, page by page."""
        return self._pages("list_manufacturers", {}, ManufacturerResponse)

    def propose_manufacturer(
        self,
        name: Label,
        pem: ManufacturerPem,
        *,
        admits: Admission | str = "waiting",
        device_type: NewDeviceType = "device",
        model: NewDeviceModel | None = None,
        tags: NewDeviceTags = (),
        reason: Reason = "",
    ) -> ManufacturerResponse:
        """Registers a manufacturer's CA. Its devices may enrol once the CA is proven.

        The proof is a certificate that the CA has signed and whose common name is the ``nonce`` of the answer.

        Raises:
            Refused: it is not the certificate of a CA, it is too weak or expired, or the CA is one of the fleet's own.
            Conflict: the name or the CA is registered.
        """
        return self._value(
            "propose_manufacturer",
            {
                "name": name,
                "pem": pem,
                "admits": admits,
                "device_type": device_type,
                "model": model,
                "tags": tags,
                "reason": reason,
            },
            ManufacturerResponse,
        )

    def prove_manufacturer(
        self, name: ManufacturerName, proof: ManufacturerProof, *, reason: Reason = ""
    ) -> ManufacturerResponse:
        """Proves a manufacturer's CA: its devices may enrol from now on. Proving it again changes nothing.

        Raises:
            NotFound: there is no such CA.
            Refused: the proof cannot be read, has another common name, or is not signed by the CA.
        """
        return self._value("prove_manufacturer", {"name": name, "proof": proof, "reason": reason}, ManufacturerResponse)

    def disable_manufacturer(self, name: ManufacturerName, *, reason: Reason = "") -> ManufacturerResponse:
        """Disables a manufacturer's CA at once; enrolled devices stay.

        Raises:
            NotFound: there is no such CA.
        """
        return self._value("disable_manufacturer", {"name": name, "reason": reason}, ManufacturerResponse)

    def list_enrollments(
        self, state: WantedState | str | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[EnrollmentResponse]:
        """Lists the keys that asked to be devices."""
        return self._value(
            "list_enrollments", {"state": state, "limit": limit, "cursor": cursor}, Page[EnrollmentResponse]
        )

    def iter_enrollments(self, state: WantedState | str | None = None) -> Iterator[EnrollmentResponse]:
        """Goes through all that ``list_enrollments`` lists, page by page."""
        return self._pages("list_enrollments", {"state": state}, EnrollmentResponse)

    def get_enrollment(self, enrollment: EnrollmentId) -> EnrollmentResponse:
        """Shows a key that asked to be a device.

        Raises:
            NotFound: there is no such enrolment.
        """
        return self._value("get_enrollment", {"enrollment": enrollment}, EnrollmentResponse)

    def approve_enrollment(
        self, enrollment: EnrollmentId, *, replace: Replace = False, reason: Reason = ""
    ) -> EnrollmentResponse:
        """Accepts a key: the device gets its certificate when it asks again.

        Compare the fingerprint with the one that the device shows; colons and capitals in it do not matter.

        Raises:
            NotFound: there is no such enrolment.
        """
        return self._value(
            "approve_enrollment", {"enrollment": enrollment, "replace": replace, "reason": reason}, EnrollmentResponse
        )

    def reject_enrollment(self, enrollment: EnrollmentId, *, reason: Reason = "") -> EnrollmentResponse:
        """Rejects a key. A certificate that it already has stays valid.

        Raises:
            NotFound: there is no such enrolment.
        """
        return self._value("reject_enrollment", {"enrollment": enrollment, "reason": reason}, EnrollmentResponse)

    def list_certificates(
        self, device: CertificateHolder | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[CertificateResponse]:
        """Lists the certificates that the fleet issued, by id.

        Raises:
            NotFound: there is no such device.
        """
        return self._value(
            "list_certificates", {"device": device, "limit": limit, "cursor": cursor}, Page[CertificateResponse]
        )

    def iter_certificates(self, device: CertificateHolder | None = None) -> Iterator[CertificateResponse]:
        """Goes through all that ``list_certificates`` lists, page by page.

        Raises:
            NotFound: there is no such device.
        """
        return self._pages("list_certificates", {"device": device}, CertificateResponse)

    def list_device_certificates(self, device_id: DeviceId) -> Page[CertificateResponse]:
        """Lists the certificates of a device.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("list_device_certificates", {"device_id": device_id}, Page[CertificateResponse])

    def get_certificate(self, certificate: CertificateId) -> CertificateResponse:
        """Shows a certificate that the fleet issued.

        Raises:
            NotFound: there is no such certificate.
        """
        return self._value("get_certificate", {"certificate": certificate}, CertificateResponse)

    def revoke_certificate(self, certificate: CertificateId, *, reason: Reason = "") -> ChangedResponse:
        """Revokes a certificate and ends its sessions; the device's other certificates stay. Answers 0 when repeated.

        Raises:
            NotFound: there is no such certificate.
        """
        return self._value("revoke_certificate", {"certificate": certificate, "reason": reason}, ChangedResponse)

    def revoke_device(self, device_id: DeviceId, *, reason: Reason = "") -> ChangedResponse:
        """Revokes every certificate and token of a device and ends its sessions; answers how many it revoked.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("revoke_device", {"device_id": device_id, "reason": reason}, ChangedResponse)

    def issue_device_token(self, device_id: DeviceId, *, reason: Reason = "") -> SecretResponse:
        """Issues a bearer token to a device that cannot use client certificates. It is shown once.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("issue_device_token", {"device_id": device_id, "reason": reason}, SecretResponse)

    def list_tokens(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[TokenResponse]:
        """Lists tokens: whose, until when, last used when; revoked and expired ones too."""
        return self._value("list_tokens", {"limit": limit, "cursor": cursor}, Page[TokenResponse])

    def iter_tokens(self) -> Iterator[TokenResponse]:
        """Goes through all that ``list_tokens`` lists, page by page."""
        return self._pages("list_tokens", {}, TokenResponse)

    def create_token(
        self,
        principal: Principal,
        roles: Roles = (),
        *,
        scope: RoleScope = "",
        days: TokenDays = 90.0,
        permissions: Permissions = (),
        reason: Reason = "",
    ) -> NewTokenResponse:
        """Makes a token for a principal, and grants roles to it; the token is shown this once.

        Its rights are the principal's, limited to ``permissions`` where there are any.

        Raises:
            QuerySyntaxError: the scope is neither a group nor a query.
        """
        return self._value(
            "create_token",
            {
                "principal": principal,
                "roles": roles,
                "scope": scope,
                "days": days,
                "permissions": permissions,
                "reason": reason,
            },
            NewTokenResponse,
        )

    def get_token(self, token_id: RecordId) -> TokenResponse:
        """Shows a token by its id, which is not the token itself.

        Raises:
            NotFound: there is no such token.
        """
        return self._value("get_token", {"token_id": token_id}, TokenResponse)

    def revoke_token(self, token_id: RecordId, *, reason: Reason = "") -> None:
        """Ends a token at once; ending it again does nothing.

        Raises:
            NotFound: there is no such token.
        """
        self._value("revoke_token", {"token_id": token_id, "reason": reason}, type(None))

    def list_roles(
        self, principal: Principal | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[RoleResponse]:
        """Lists who has which role, within which scope, given by whom; of one principal, or of all."""
        return self._value("list_roles", {"principal": principal, "limit": limit, "cursor": cursor}, Page[RoleResponse])

    def iter_roles(self, principal: Principal | None = None) -> Iterator[RoleResponse]:
        """Goes through all that ``list_roles`` lists, page by page."""
        return self._pages("list_roles", {"principal": principal}, RoleResponse)

    def grant_role(
        self, principal: Principal, role: Role | str, *, scope: RoleScope = "", reason: Reason = ""
    ) -> RoleResponse:
        """Gives a principal a role; every token of it has the role from the next request on.

        The same grant again is the one that is there.

        Raises:
            QuerySyntaxError: the scope is neither a group nor a query.
        """
        return self._value(
            "grant_role", {"principal": principal, "role": role, "scope": scope, "reason": reason}, RoleResponse
        )

    def revoke_role(self, grant_id: RecordId, *, reason: Reason = "") -> None:
        """Takes a role back, by the id that ``list_roles`` shows.

        Raises:
            NotFound: there is no such grant.
        """
        self._value("revoke_role", {"grant_id": grant_id, "reason": reason}, type(None))

    def list_audit(
        self,
        *,
        object: ObjectName | None = None,
        actor: ActorName | None = None,
        after: RowNumber = 0,
        limit: Limit = 100,
        cursor: Cursor | None = None,
    ) -> Page[AuditRowResponse]:
        """Lists rows of the audit log in their order."""
        return self._value(
            "list_audit",
            {"object": object, "actor": actor, "after": after, "limit": limit, "cursor": cursor},
            Page[AuditRowResponse],
        )

    def iter_audit(
        self, *, object: ObjectName | None = None, actor: ActorName | None = None, after: RowNumber = 0
    ) -> Iterator[AuditRowResponse]:
        """Goes through all that ``list_audit`` lists, page by page."""
        return self._pages("list_audit", {"object": object, "actor": actor, "after": after}, AuditRowResponse)

    def verify_audit(self, checkpoints: Checkpoints | None = None) -> VerdictResponse:
        """Recomputes every hash and compares with signed checkpoints: those given, else those that the server keeps."""
        return self._value("verify_audit", {"checkpoints": checkpoints}, VerdictResponse)

    def get_status(self) -> StatusResponse:
        """Shows what runs: protocols, queue, where readings went, consumers and where they are, failed tasks, plugins."""
        return self._value("get_status", {}, StatusResponse)

    def list_detectors(self) -> Page[InstanceResponse]:
        """Lists the configured detectors; fleet.toml says which there are."""
        return self._value("list_detectors", {}, Page[InstanceResponse])

    def list_notifiers(self) -> Page[InstanceResponse]:
        """Lists the configured notifiers; fleet.toml says which there are."""
        return self._value("list_notifiers", {}, Page[InstanceResponse])

    def list_plugins(self) -> Page[PluginResponse]:
        """Lists the installed plugins; they are installed in a shell, never from here."""
        return self._value("list_plugins", {}, Page[PluginResponse])

    @abstractmethod
    def _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:
        """The answer of a call; raises what the call raises."""

    def _pages(self, name: str, given: Mapping[str, Any], kind: type[T]) -> Iterator[T]:
        """All items of a list, page by page."""
        cursor: str | None = None
        while True:
            asked = {**given, "limit": PAGE, "cursor": cursor}
            page: Page[T] = self._value(name, asked, Page[kind])  # type: ignore[valid-type]  # at run time
            yield from page
            cursor = page.next
            if cursor is None:
                return
