"""Every call as a typed method, blocking. ``make generate`` writes this file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from fleetcore.calls.responses.anomalies import AnomalyResponse
from fleetcore.calls.responses.audit import AuditRowResponse, VerdictResponse
from fleetcore.calls.responses.campaigns import (
    CampaignEvidenceResponse,
    CampaignPlanResponse,
    CampaignReportResponse,
    CampaignResponse,
    ExecutionResponse,
    FreezeResponse,
    WhyExecutionResponse,
)
from fleetcore.calls.responses.cas import (
    CaResponse,
    CertificateCheckResponse,
    ForecastResponse,
    IncidentResponse,
    RenewalPlanResponse,
    RevocationListsResponse,
    RootOfflineResponse,
    RotationResponse,
    StepResponse,
)
from fleetcore.calls.responses.certificates import CertificateResponse
from fleetcore.calls.responses.commands import CommandCountsResponse, CommandResponse, PlanResponse
from fleetcore.calls.responses.cutovers import CutoverPlanResponse, CutoverResponse
from fleetcore.calls.responses.dead_letters import DeadLetterResponse, ReplayResponse
from fleetcore.calls.responses.devices import (
    ChangeResponse,
    DeviceCountResponse,
    DeviceResponse,
    ExplanationResponse,
    PositionResponse,
    ProvisionedResponse,
)
from fleetcore.calls.responses.edge import (
    DistributedResponse,
    FunctionResponse,
    GatewayFunctionResponse,
    GatewayResponse,
    GatewayStateResponse,
    GatewayUsageResponse,
    PlacementResponse,
    ReplacementResponse,
)
from fleetcore.calls.responses.enrollment import (
    ClaimCredentialResponse,
    ClaimResponse,
    EnrollmentResponse,
    EnrollmentTokenResponse,
    ManufacturerResponse,
    SecretResponse,
)
from fleetcore.calls.responses.events import EventResponse
from fleetcore.calls.responses.firmware import (
    ArtifactResponse,
    DeltaResponse,
    FirmwareRootResponse,
    ReleaseResponse,
    SignedReleaseResponse,
    UploadResponse,
)
from fleetcore.calls.responses.groups import ChangedResponse, GroupResponse, MemberResponse, MembershipResponse
from fleetcore.calls.responses.health import DiagnosisResponse, HealthResponse
from fleetcore.calls.responses.layers import LayerResponse
from fleetcore.calls.responses.mirrors import (
    MirrorChangeResponse,
    MirrorCheckResponse,
    MirrorDeadLetterResponse,
    MirrorDriftsResponse,
    MirrorImportableResponses,
    MirrorPausedResponse,
    MirrorPolicyResponse,
    MirrorRefusedCommandResponse,
    MirrorRefusedReadingResponse,
    MirrorResponse,
)
from fleetcore.calls.responses.operations import DeviceRowResponse, ImportCheckResponse, OperationResponse
from fleetcore.calls.responses.operators import NewTokenResponse, RoleResponse, TokenResponse
from fleetcore.calls.responses.overview import OverviewResponse
from fleetcore.calls.responses.server import (
    BackupResponse,
    InstanceResponse,
    ListenersCheckResponse,
    PluginResponse,
    StatusResponse,
    StorageCheckResponse,
    StorageVerifyResponse,
)
from fleetcore.calls.responses.storage import LeftBehindResponse, MetricRetentionResponse, StorageResponse
from fleetcore.calls.responses.telemetry import (
    BucketsResponse,
    ImportedReadingsResponse,
    LatestResponse,
    ReadingsResponse,
    SeriesResponse,
    StoredResponse,
)
from fleetcore.calls.responses.twins import TwinChangeResponse, TwinResponse
from fleetcore.calls.types import UNSET, Json, Page
from fleetcore.frontends.catalogue import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fleetcore.calls.anomalies import AnomalyId, NewestFirst
    from fleetcore.calls.audit import ActionName, ActorName, Checkpoints, DeviceName, ObjectName, RowNumber
    from fleetcore.calls.campaigns import (
        AllowDowngrade,
        CampaignDevices,
        CampaignId,
        CampaignName,
        CampaignPriority,
        CampaignWhere,
        Continuous,
        DeviceSoak,
        DownloadEarly,
        Emergency,
        FailingShare,
        FetchSeconds,
        FirmwareVersion,
        Force,
        GateAction,
        GateAlpha,
        GateMetrics,
        GateWindow,
        Hold,
        ImageDigest,
        ImageSize,
        ImageUrl,
        InstallSeconds,
        Manifest,
        MaxDeferral,
        MaxFailedOf,
        MinBattery,
        MinExecuted,
        MinSucceeded,
        NeedsApproval,
        NeedsConsent,
        NewCampaign,
        OnlyFailed,
        PerMinute,
        RateFactor,
        ReleaseId,
        Requirement,
        RetryAfter,
        RetryTimes,
        RollbackDigest,
        RollbackTo,
        RollbackVersion,
        SiteLimit,
        StartSpread,
        StepTimeout,
        TimeZone,
        WaveSoak,
        WhatOnFailure,
        Windows,
    )
    from fleetcore.calls.cas import (
        CaId,
        CertificatePem,
        CountedBy,
        ForceDistrust,
        ForceStep,
        ForecastPeriod,
        NextEndings,
        OfflineRoot,
        Outdated,
        Passphrase,
        Periods,
        RootKey,
        RotationStep,
        ServerFile,
        Threshold,
        TimeoutS,
    )
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
        PlanDigest,
        Precondition,
        RatePerS,
        Respond,
        ResultWithin,
        Supersede,
        Unfinished,
        WaitS,
    )
    from fleetcore.calls.cutovers import AtOnce, Devices, Endpoint, OfOperation, Roots, Side, Timeout, Tries
    from fleetcore.calls.dead_letters import LetterNumber
    from fleetcore.calls.devices import (
        Attributes,
        Capabilities,
        Configuration,
        Gateway,
        Home,
        KeyId,
        Model,
        Name,
        Place,
        State,
        TagName,
        Tags,
        Type,
        TypeName,
    )
    from fleetcore.calls.edge import (
        Aggregates,
        AnswerWithin,
        Copies,
        CpuPercent,
        DiskMib,
        FunctionConfig,
        FunctionId,
        FunctionName,
        FunctionRollback,
        GatewayCapabilities,
        GatewayId,
        GatewayLabels,
        GatewayModel,
        LeafId,
        LeavesWhere,
        MayRegister,
        MemoryMib,
        MetricPattern,
        NewGateway,
        NewGatewayId,
        OfFunction,
        OfGateways,
        OnGateways,
        OpenFor,
        PlaceWhere,
        RangeBucket,
        Retire,
        RowsBy,
        WaitFor,
    )
    from fleetcore.calls.enrollment import (
        Admission,
        ClaimDays,
        ClaimModels,
        ClaimName,
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
        NewManufacturer,
        Replace,
        StaticGroups,
        TokenDevice,
        TokenSeconds,
        TokenUses,
        WantedState,
    )
    from fleetcore.calls.events import After, Marks, TypePrefixes
    from fleetcore.calls.firmware import (
        AnnouncedSize,
        ArtifactId,
        DeltaBase,
        DeltaTarget,
        ReleaseName,
        RootEnvelope,
        RootNumber,
        SignedRelease,
        UploadOffset,
        UploadSize,
    )
    from fleetcore.calls.freezes import FreezeName, FrozenDevices, NewFreeze
    from fleetcore.calls.groups import Description, DeviceIds, GroupName, NewGroupName, Query, Within
    from fleetcore.calls.imports import More, Rows, Started
    from fleetcore.calls.layers import Kind, LayerGroup, LayerName, LayerPatch, Priority
    from fleetcore.calls.mirrors import DefaultType, Entity, MirrorName, Removals, Scan
    from fleetcore.calls.operations import OperationId, OperationKind
    from fleetcore.calls.operators import (
        GrantedRole,
        GrantId,
        Permissions,
        Principal,
        Roles,
        RoleScope,
        TokenDays,
        TokenId,
    )
    from fleetcore.calls.overview import DeviceOrder, First
    from fleetcore.calls.server import BackupFolder, VerifyPlace
    from fleetcore.calls.storage import Days, LeftBehindName, OfMetrics
    from fleetcore.calls.telemetry import (
        Buckets,
        BucketSeconds,
        DryRun,
        Metric,
        OfDevice,
        Points,
        Reading,
        ReadingId,
        Unit,
        Zone,
    )
    from fleetcore.calls.twins import AttributesVersion, DesiredVersion, TwinPatch, TwinSection
    from fleetcore.calls.types import (
        BatchName,
        Cursor,
        DeviceId,
        IdempotencyKey,
        IfVersion,
        Limit,
        MaxFailed,
        Ms,
        NewDeviceId,
        Reason,
        UnsetType,
        Waves,
        Where,
    )
    from fleetcore.wire.pieces import Source

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

        A page may be short and have a ``next`` when a query selects few of many.

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

        A page may be short and have a ``next`` when a query selects few of many.

        Raises:
            QuerySyntaxError: the query cannot be read.
        """
        return self._pages("list_devices", {"type": type, "tag": tag, "where": where}, DeviceResponse)

    def query_devices(self, where: Where, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[DeviceResponse]:
        """Lists the devices that a query selects, by id: for a query that is too long for a URL.

        Raises:
            QuerySyntaxError: the query cannot be read.
        """
        return self._value("query_devices", {"where": where, "limit": limit, "cursor": cursor}, Page[DeviceResponse])

    def iter_query_devices(self, where: Where) -> Iterator[DeviceResponse]:
        """Goes through all that ``query_devices`` lists, page by page.

        Raises:
            QuerySyntaxError: the query cannot be read.
        """
        return self._pages("query_devices", {"where": where}, DeviceResponse)

    def count_devices(self, where: Where | None = None) -> DeviceCountResponse:
        """Counts the devices, or those that a query selects.

        Raises:
            QuerySyntaxError: the query cannot be read.
        """
        return self._value("count_devices", {"where": where}, DeviceCountResponse)

    def explain_query(self, device_id: DeviceId, where: Where) -> ExplanationResponse:
        """Shows whether a query selects a device, which clause decided (→), and the values that each clause saw.

        Raises:
            NotFound: there is no such device.
            QuerySyntaxError: the query cannot be read.
        """
        return self._value("explain_query", {"device_id": device_id, "where": where}, ExplanationResponse)

    def create_device(
        self,
        id: NewDeviceId,
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

        This needs the permission for the whole fleet: a new device is not in any scope yet.

        Raises:
            Conflict: a device of that id exists.
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
        """Shows a device with its connectivity.

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
        home: Home | UnsetType | None = UNSET,
        if_version: IfVersion | None = None,
        reason: Reason = "",
    ) -> DeviceResponse:
        """Changes a device's registered data; members that are not given stay, None clears. ``attributes`` are merged.

        ``home`` is the mirror to whose hub the device is connected: it reports there, and gets its commands there.

        Raises:
            NotFound: there is no such device, no such gateway, or no such mirror.
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
                "home": home,
                "if_version": if_version,
                "reason": reason,
            },
            DeviceResponse,
        )

    def set_lifecycle(
        self, device_id: DeviceId, state: State | str, *, if_version: IfVersion | None = None, reason: Reason = ""
    ) -> DeviceResponse:
        """Suspends, quarantines, activates or retires a device.

        A suspended device is refused. Readings of a quarantined device are stored and flagged, and it gets no commands and
        no firmware. Retiring is permanent: the device's credentials are revoked and its sessions end.

        Raises:
            NotFound: there is no such device.
            IllegalTransition: the lifecycle has no such transition from its state.
            VersionConflict: the device is not at ``if_version``.
        """
        return self._value(
            "set_lifecycle",
            {"device_id": device_id, "state": state, "if_version": if_version, "reason": reason},
            DeviceResponse,
        )

    def retire_device(self, device_id: DeviceId, *, if_version: IfVersion | None = None, reason: Reason = "") -> None:
        """Retires a device: its credentials are revoked, its data stays.

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
        """Writes the desired configuration and moves a registered device to provisioned; issues no credential.

        The same configuration again changes nothing; another one makes a new version.

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
        """Lists who changed what of a device, when and why, the oldest first, without values.

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

    def check_import(self, rows: Rows, *, operation: Started | None = None, more: More = False) -> ImportCheckResponse:
        """Shows what an import of rows would do. Nothing is stored.

        A large file comes in parts, as for ``import_devices``.

        Raises:
            NotFound: ``operation`` is not a check that waits for another part.
        """
        return self._value("check_import", {"rows": rows, "operation": operation, "more": more}, ImportCheckResponse)

    def import_devices(
        self, rows: Rows, *, operation: Started | None = None, more: More = False, reason: Reason = ""
    ) -> OperationResponse:
        """Registers many devices in the background; the operation lists each row that failed.

        A row has id, type, model, name, tags, capabilities, attributes, location, gateway, key_id. The same rows again
        change nothing, so an interrupted import can be repeated. A large file comes in parts: all but the last with
        ``more``, all but the first with the ``id`` of the first answer as ``operation``.

        Raises:
            NotFound: there is no such import, or it is another principal's.
            Conflict: it takes no more rows.
        """
        return self._value(
            "import_devices", {"rows": rows, "operation": operation, "more": more, "reason": reason}, OperationResponse
        )

    def list_device_rows(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[DeviceRowResponse]:
        """Lists devices as rows that ``import_devices`` takes, by id."""
        return self._value("list_device_rows", {"limit": limit, "cursor": cursor}, Page[DeviceRowResponse])

    def iter_device_rows(self) -> Iterator[DeviceRowResponse]:
        """Goes through all that ``list_device_rows`` lists, page by page."""
        return self._pages("list_device_rows", {}, DeviceRowResponse)

    def list_groups(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[GroupResponse]:
        """Lists the groups by name: all, or those in the caller's scope."""
        return self._value("list_groups", {"limit": limit, "cursor": cursor}, Page[GroupResponse])

    def iter_groups(self) -> Iterator[GroupResponse]:
        """Goes through all that ``list_groups`` lists, page by page."""
        return self._pages("list_groups", {}, GroupResponse)

    def create_group(
        self,
        id: NewGroupName,
        *,
        query: Query | None = None,
        within: Within = (),
        description: Description = "",
        reason: Reason = "",
    ) -> GroupResponse:
        """Makes a group: static, or dynamic with a query; a dynamic group has its devices when this returns.

        Raises:
            Conflict: a group of that name exists.
            QuerySyntaxError: the query cannot be read.
        """
        return self._value(
            "create_group",
            {"id": id, "query": query, "within": within, "description": description, "reason": reason},
            GroupResponse,
        )

    def get_group(self, group: GroupName) -> GroupResponse:
        """Shows a group and the number of its devices.

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
        """Changes a group's query, the groups that contain it, or its description; members that are not given stay.

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
        """Adds devices to a static group, all or none; returns how many were not in it.

        Raises:
            NotFound: there is no such group, or no such device.
            Refused: the group is dynamic.
        """
        return self._value("add_to_group", {"group": group, "devices": devices, "reason": reason}, ChangedResponse)

    def remove_from_group(self, group: GroupName, device_id: DeviceId, *, reason: Reason = "") -> ChangedResponse:
        """Removes a device from a static group; returns 0 if it was not in it.

        Raises:
            NotFound: there is no such group, or no such device.
            Refused: the group is dynamic.
        """
        return self._value(
            "remove_from_group", {"group": group, "device_id": device_id, "reason": reason}, ChangedResponse
        )

    def list_device_groups(self, device_id: DeviceId) -> Page[MembershipResponse]:
        """Lists the groups that a device is in directly, each with since when and why.

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

    def list_gateway_usage(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[GatewayUsageResponse]:
        """Lists what gateways have, promise and use, by id; from their last reports."""
        return self._value("list_gateway_usage", {"limit": limit, "cursor": cursor}, Page[GatewayUsageResponse])

    def iter_gateway_usage(self) -> Iterator[GatewayUsageResponse]:
        """Goes through all that ``list_gateway_usage`` lists, page by page."""
        return self._pages("list_gateway_usage", {}, GatewayUsageResponse)

    def register_gateway(
        self,
        id: NewGatewayId,
        capabilities: GatewayCapabilities | None = None,
        *,
        may_register: MayRegister = False,
        labels: GatewayLabels | None = None,
        model: GatewayModel | None = None,
        cpu_percent: CpuPercent | None = None,
        memory_mib: MemoryMib | None = None,
        disk_mib: DiskMib | None = None,
        reason: Reason = "",
    ) -> GatewayResponse:
        """Registers a gateway, or makes a registered device a gateway.

        What of its capacity is not given is what the gateway reports. Repeated, it sets capabilities and ``may_register``
        anew; labels, model and capacity stay where they are not given.

        Raises:
            Refused: it promises more than this capacity to its functions.
        """
        return self._value(
            "register_gateway",
            {
                "id": id,
                "capabilities": capabilities,
                "may_register": may_register,
                "labels": labels,
                "model": model,
                "cpu_percent": cpu_percent,
                "memory_mib": memory_mib,
                "disk_mib": disk_mib,
                "reason": reason,
            },
            GatewayResponse,
        )

    def get_gateway(self, gateway_id: GatewayId) -> GatewayStateResponse:
        """Shows a gateway: its place, what it has and promises, and whether it runs what is deployed.

        Raises:
            NotFound: there is no such device.
            Refused: it is not a gateway.
        """
        return self._value("get_gateway", {"gateway_id": gateway_id}, GatewayStateResponse)

    def set_gateway_capacity(
        self,
        gateway_id: GatewayId,
        *,
        cpu_percent: CpuPercent | None = None,
        memory_mib: MemoryMib | None = None,
        disk_mib: DiskMib | None = None,
        reason: Reason = "",
    ) -> GatewayResponse:
        """Declares what a gateway has for functions; what is not given is what the gateway reports.

        Raises:
            NotFound: there is no such device.
            Refused: it is not a gateway, or promises more than this to its functions.
        """
        return self._value(
            "set_gateway_capacity",
            {
                "gateway_id": gateway_id,
                "cpu_percent": cpu_percent,
                "memory_mib": memory_mib,
                "disk_mib": disk_mib,
                "reason": reason,
            },
            GatewayResponse,
        )

    def list_leaves(
        self, gateway_id: GatewayId, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[DeviceResponse]:
        """Lists the leaves of a gateway, by id.

        Raises:
            NotFound: there is no such device.
        """
        return self._value(
            "list_leaves", {"gateway_id": gateway_id, "limit": limit, "cursor": cursor}, Page[DeviceResponse]
        )

    def iter_leaves(self, gateway_id: GatewayId) -> Iterator[DeviceResponse]:
        """Goes through all that ``list_leaves`` lists, page by page.

        Raises:
            NotFound: there is no such device.
        """
        return self._pages("list_leaves", {"gateway_id": gateway_id}, DeviceResponse)

    def attach_leaf(self, gateway_id: GatewayId, device: LeafId, *, reason: Reason = "") -> DeviceResponse:
        """Attaches a registered device to a gateway as a leaf. Repeating it changes nothing.

        Raises:
            NotFound: there is no such gateway, or no such device.
        """
        return self._value(
            "attach_leaf", {"gateway_id": gateway_id, "device": device, "reason": reason}, DeviceResponse
        )

    def detach_leaf(self, gateway_id: GatewayId, device_id: LeafId, *, reason: Reason = "") -> None:
        """Detaches a leaf from its gateway.

        Raises:
            NotFound: there is no such gateway, no such device, or it is not a leaf of the gateway.
        """
        self._value("detach_leaf", {"gateway_id": gateway_id, "device_id": device_id, "reason": reason}, type(None))

    def replace_gateway(
        self, gateway_id: GatewayId, new: NewGateway, *, retire: Retire = False, reason: Reason = ""
    ) -> ReplacementResponse:
        """Gives a gateway's leaves, functions, labels, capacity and place to another one, in one step.

        The old gateway is suspended, and its updates are cancelled. Repeated, it completes what was interrupted.

        Raises:
            NotFound: there is no such device.
            Conflict: another gateway has replaced it, the new one cannot be used, or has functions of its own.
            Refused: it is not a gateway, a function is for other hardware, or the new one reports too few resources.
        """
        return self._value(
            "replace_gateway",
            {"gateway_id": gateway_id, "new": new, "retire": retire, "reason": reason},
            ReplacementResponse,
        )

    def list_gateway_functions(self, gateway_id: GatewayId) -> Page[GatewayFunctionResponse]:
        """Lists the functions of a gateway, by name: what is deployed, what it reports, and why these differ.

        Raises:
            NotFound: there is no such device.
            Refused: it is not a gateway.
        """
        return self._value("list_gateway_functions", {"gateway_id": gateway_id}, Page[GatewayFunctionResponse])

    def undeploy_function(self, gateway_id: GatewayId, function: FunctionName, *, reason: Reason = "") -> None:
        """Removes a function from a gateway, and cancels what is to deploy it there. Repeating it changes nothing.

        Raises:
            NotFound: there is no such device.
        """
        self._value("undeploy_function", {"gateway_id": gateway_id, "function": function, "reason": reason}, type(None))

    def list_functions(
        self, function: OfFunction | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[FunctionResponse]:
        """Lists the released functions by name and seq."""
        return self._value(
            "list_functions", {"function": function, "limit": limit, "cursor": cursor}, Page[FunctionResponse]
        )

    def iter_functions(self, function: OfFunction | None = None) -> Iterator[FunctionResponse]:
        """Goes through all that ``list_functions`` lists, page by page."""
        return self._pages("list_functions", {"function": function}, FunctionResponse)

    def get_function(self, function: FunctionId) -> FunctionResponse:
        """Shows a released function and its contract.

        Raises:
            NotFound: there is no such function.
        """
        return self._value("get_function", {"function": function}, FunctionResponse)

    def plan_placement(
        self, function: FunctionId, *, where: PlaceWhere = "", copies: Copies | None = None
    ) -> PlacementResponse:
        """Shows on which gateways a function fits, by model, ABI and capacity, and why it does not fit on others.

        Nothing is deployed; `deploy` with the same query takes the chosen gateways.

        Raises:
            NotFound: there is no such function.
            Refused: it fits on no gateway, or on fewer than wanted.
        """
        return self._value(
            "plan_placement", {"function": function, "where": where, "copies": copies}, PlacementResponse
        )

    def deploy_function(
        self,
        function: FunctionId,
        campaign: CampaignName,
        *,
        gateways: OnGateways = (),
        where: PlaceWhere = "",
        copies: Copies | None = None,
        config: FunctionConfig | None = None,
        waves: Waves = (),
        min_succeeded: MinSucceeded = 0.95,
        wave_soak_s: WaveSoak = 0.0,
        max_failed: MaxFailedOf | None = None,
        min_executed: MinExecuted = 1,
        on_failure: WhatOnFailure | str = "pause",
        gate_window_s: GateWindow | None = None,
        rate_per_minute: PerMinute | None = None,
        retries: RetryTimes = 0,
        retry_after_s: RetryAfter = 300.0,
        soak_s: DeviceSoak = 0.0,
        step_timeout_s: StepTimeout = 86400.0,
        rollback_to: FunctionRollback | None = None,
        hold: Hold = False,
        starts_at: Time | None = None,
        approval: NeedsApproval = False,
        reason: Reason = "",
    ) -> CampaignResponse:
        """Deploys a function to gateways with a campaign, which is watched, paused, aborted and rolled back as any other.

        It goes to the named gateways, which all have to fit, or to those that fit and that the query selects: that needs
        the permission for the whole fleet. `campaign start` with the release has the other ways to roll it out.

        Raises:
            NotFound: there is no such function, or no such gateway.
            Conflict: a campaign of that name exists.
            Refused: it does not fit, or what a rollback would install is not stored or not trusted any more.
        """
        return self._value(
            "deploy_function",
            {
                "function": function,
                "campaign": campaign,
                "gateways": gateways,
                "where": where,
                "copies": copies,
                "config": config,
                "waves": waves,
                "min_succeeded": min_succeeded,
                "wave_soak_s": wave_soak_s,
                "max_failed": max_failed,
                "min_executed": min_executed,
                "on_failure": on_failure,
                "gate_window_s": gate_window_s,
                "rate_per_minute": rate_per_minute,
                "retries": retries,
                "retry_after_s": retry_after_s,
                "soak_s": soak_s,
                "step_timeout_s": step_timeout_s,
                "rollback_to": rollback_to,
                "hold": hold,
                "starts_at": starts_at,
                "approval": approval,
                "reason": reason,
            },
            CampaignResponse,
        )

    def run_distributed(
        self,
        metric: MetricPattern,
        *,
        where: LeavesWhere = "",
        gateways: OfGateways = (),
        start: Time | None = None,
        end: Time | None = None,
        bucket_s: RangeBucket | None = None,
        aggregates: Aggregates = ("count", "sum", "min", "max", "mean"),
        by: RowsBy = "all",
        within_s: AnswerWithin = 60.0,
        wait_for: WaitFor = 1.0,
        open_s: OpenFor = 86400.0,
        wait_s: WaitS = 0.0,
        reason: Reason = "",
    ) -> DistributedResponse:
        """Summarises the readings that each gateway has stored itself, there, and adds the summaries here.

        It is an operation. With ``wait_s`` it waits that long for enough answers, at most until the deadline; the answer is
        the result by then, and ``get_distributed`` gives it again, with late answers. A gateway counts once it has answered
        completely. Each device is asked of the gateway that it is a leaf of.

        Raises:
            NotFound: there is no such gateway, none with a selected device, or none has such a metric.
            QuerySyntaxError: the query cannot be read.
            Refused: ``range_invalid``, no time is in the range; ``limit_exceeded``, the result would be too long; there is
                no such aggregate.
        """
        return self._value(
            "run_distributed",
            {
                "metric": metric,
                "where": where,
                "gateways": gateways,
                "start": start,
                "end": end,
                "bucket_s": bucket_s,
                "aggregates": aggregates,
                "by": by,
                "within_s": within_s,
                "wait_for": wait_for,
                "open_s": open_s,
                "wait_s": wait_s,
                "reason": reason,
            },
            DistributedResponse,
        )

    def get_distributed(self, operation: OperationId, *, wait_s: WaitS = 0.0) -> DistributedResponse:
        """Shows the result of distributed processing as it is now, or waits for enough answers, as ``run_distributed``.

        Raises:
            NotFound: there is no such operation, it is another principal's or of another kind; or no gateway has such a
                metric.
        """
        return self._value("get_distributed", {"operation": operation, "wait_s": wait_s}, DistributedResponse)

    def get_twin(self, device_id: DeviceId) -> TwinResponse:
        """Shows a device's twin: desired and reported state, the differences and since when, and the attributes.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("get_twin", {"device_id": device_id}, TwinResponse)

    def set_desired(
        self, device_id: DeviceId, patch: TwinPatch, *, if_version: DesiredVersion | None = None, reason: Reason = ""
    ) -> TwinResponse:
        """Merges a patch into a device's desired state; a patch without effect makes no new version.

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
        """Merges a patch into a device's attributes, which are not sent to it.

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
        """Lists the stored changes of a section, the newest first, each with the patch that undoes it.

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

    def get_layer(self, layer: LayerName) -> LayerResponse:
        """Shows a layer.

        Raises:
            NotFound: there is no such layer.
        """
        return self._value("get_layer", {"layer": layer}, LayerResponse)

    def set_layer(
        self,
        layer: LayerName,
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

    def remove_layer(self, layer: LayerName, *, reason: Reason = "") -> None:
        """Removes a layer; its devices fall back to the layers below it.

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

        The answer is the command in its state by then. Waiting ends at once if the caller may no longer send it. The
        command stores its key, so that it is sent once even if a crash lost the answer.

        Raises:
            NotFound: there is no such device.
            Conflict: the device is retired.
            QuerySyntaxError: the precondition cannot be read.
            Refused: the arguments exceed a limit, or the key was used with another command.
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
        """Shows which devices a command would reach: those selected to which the caller may send commands.

        It takes the parameters of ``send_commands``; the rate and the reason do not change the plan.

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
        """Sends a command to the devices of ``plan_commands``, in the background.

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
        """Shows a command and its state.

        Raises:
            NotFound: there is no such command.
        """
        return self._value("get_command", {"command": command}, CommandResponse)

    def cancel_command(self, command: CommandId, *, reason: Reason = "") -> CommandResponse:
        """Cancels a command: at once if it was not sent, else by asking the device. Repeating it changes nothing.

        Raises:
            NotFound: there is no such command.
            Conflict: it has another end state.
        """
        return self._value("cancel_command", {"command": command, "reason": reason}, CommandResponse)

    def count_commands(self, operation: OperationId) -> CommandCountsResponse:
        """Counts the commands that an operation sent, by state.

        Raises:
            NotFound: there is no such operation.
        """
        return self._value("count_commands", {"operation": operation}, CommandCountsResponse)

    def collect_telemetry(
        self,
        device_id: DeviceId,
        metric: Metric,
        value: Reading,
        unit: Unit | None = None,
        *,
        time: Time | None = None,
        id: ReadingId | None = None,
    ) -> StoredResponse:
        """Stores one reading of a device, through the whole data path; it is committed when this returns.

        Raises:
            NotFound: there is no such device.
            Refused: the data path refuses the reading.
        """
        return self._value(
            "collect_telemetry",
            {"device_id": device_id, "metric": metric, "value": value, "unit": unit, "time": time, "id": id},
            StoredResponse,
        )

    def import_readings(self, content: Source, *, dry_run: DryRun = False) -> ImportedReadingsResponse:
        """Stores a part of the readings of many devices; it is committed when this returns. Repeating it changes nothing.

        Args:
            content: JSON of columns: ``series`` lists device, metric and unit or null; ``at`` is the index in it for each
                reading, ``time`` its milliseconds since the epoch, ``value`` a number, true or false, or text. At most
                100,000 readings and 32 MiB. In a dry run, the first ``before`` readings repeat readings of earlier parts
                whose times occur again in this one; they are not counted.

        Raises:
            Refused: the content does not have such columns, or is too long. A refused reading is counted in the answer.
        """
        return self._value("import_readings", {"content": content, "dry_run": dry_run}, ImportedReadingsResponse)

    def list_series(
        self,
        device: OfDevice | None = None,
        *,
        where: Where | None = None,
        limit: Limit = 100,
        cursor: Cursor | None = None,
    ) -> Page[SeriesResponse]:
        """Lists all series of some devices; ``limit`` counts devices.

        ``kind`` is the kind of the newest reading; readings of one metric may differ in it.

        Raises:
            NotFound: there is no such device.
            QuerySyntaxError: the query cannot be read.
        """
        return self._value(
            "list_series", {"device": device, "where": where, "limit": limit, "cursor": cursor}, Page[SeriesResponse]
        )

    def iter_series(self, device: OfDevice | None = None, *, where: Where | None = None) -> Iterator[SeriesResponse]:
        """Goes through all that ``list_series`` lists, page by page.

        ``kind`` is the kind of the newest reading; readings of one metric may differ in it.

        Raises:
            NotFound: there is no such device.
            QuerySyntaxError: the query cannot be read.
        """
        return self._pages("list_series", {"device": device, "where": where}, SeriesResponse)

    def list_latest_readings(
        self,
        device: OfDevice | None = None,
        *,
        where: Where | None = None,
        limit: Limit = 100,
        cursor: Cursor | None = None,
    ) -> Page[LatestResponse]:
        """Lists the newest reading, by event time, of each metric of some devices; ``limit`` counts devices.

        A long text is cut; `list_readings` returns all of it.

        Raises:
            NotFound: there is no such device.
            QuerySyntaxError: the query cannot be read.
        """
        return self._value(
            "list_latest_readings",
            {"device": device, "where": where, "limit": limit, "cursor": cursor},
            Page[LatestResponse],
        )

    def iter_latest_readings(
        self, device: OfDevice | None = None, *, where: Where | None = None
    ) -> Iterator[LatestResponse]:
        """Goes through all that ``list_latest_readings`` lists, page by page.

        A long text is cut; `list_readings` returns all of it.

        Raises:
            NotFound: there is no such device.
            QuerySyntaxError: the query cannot be read.
        """
        return self._pages("list_latest_readings", {"device": device, "where": where}, LatestResponse)

    def list_device_latest_readings(self, device_id: DeviceId) -> Page[LatestResponse]:
        """Lists the newest reading, by event time, of each metric of a device.

        A long text is cut; `list_readings` returns all of it.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("list_device_latest_readings", {"device_id": device_id}, Page[LatestResponse])

    def list_readings(
        self,
        metric: Metric,
        *,
        device: OfDevice | None = None,
        where: Where | None = None,
        start: Time | None = None,
        end: Time | None = None,
        points: Points = 1000,
        limit: Limit = 100,
        cursor: Cursor | None = None,
    ) -> Page[ReadingsResponse]:
        """Lists the points of a metric with ``start <= time < end``, one device's series after the other.

        A page ends after ``points`` points or ``limit`` devices; the next page continues a series that was cut.

        Raises:
            NotFound: there is no such device, or it has sent no reading of the metric.
            QuerySyntaxError: the query cannot be read.
        """
        return self._value(
            "list_readings",
            {
                "metric": metric,
                "device": device,
                "where": where,
                "start": start,
                "end": end,
                "points": points,
                "limit": limit,
                "cursor": cursor,
            },
            Page[ReadingsResponse],
        )

    def iter_readings(
        self,
        metric: Metric,
        *,
        device: OfDevice | None = None,
        where: Where | None = None,
        start: Time | None = None,
        end: Time | None = None,
        points: Points = 1000,
    ) -> Iterator[ReadingsResponse]:
        """Goes through all that ``list_readings`` lists, page by page.

        A page ends after ``points`` points or ``limit`` devices; the next page continues a series that was cut.

        Raises:
            NotFound: there is no such device, or it has sent no reading of the metric.
            QuerySyntaxError: the query cannot be read.
        """
        return self._pages(
            "list_readings",
            {"metric": metric, "device": device, "where": where, "start": start, "end": end, "points": points},
            ReadingsResponse,
        )

    def list_buckets(
        self,
        metric: Metric,
        bucket_s: BucketSeconds = 3600.0,
        *,
        device: OfDevice | None = None,
        where: Where | None = None,
        start: Time | None = None,
        end: Time | None = None,
        tz: Zone = "UTC",
        points: Buckets = 1000,
        limit: Limit = 100,
        cursor: Cursor | None = None,
    ) -> Page[BucketsResponse]:
        """Lists count, min, max, mean, sum, first and last of a metric per bucket; empty buckets are left out.

        A bucket begins where the clock of ``tz``, counted from 1970-01-01 00:00, is a multiple of ``bucket_s``: one of
        86,400 s is a calendar day, of 23 or 25 hours at a change of the clock; an hour that the clock runs through twice is
        two buckets. ``start`` of a bucket is in UTC.

        Buckets hold the numbers, with true as 1 and false as 0; ``texts`` counts the text readings, which are in no bucket.

        A page ends after ``points`` buckets or ``limit`` devices; the next page continues a series that was cut.

        Raises:
            NotFound: there is no such device, or it has sent no reading of the metric.
            QuerySyntaxError: the query cannot be read.
            Refused: ``tz`` is not a time zone.
        """
        return self._value(
            "list_buckets",
            {
                "metric": metric,
                "bucket_s": bucket_s,
                "device": device,
                "where": where,
                "start": start,
                "end": end,
                "tz": tz,
                "points": points,
                "limit": limit,
                "cursor": cursor,
            },
            Page[BucketsResponse],
        )

    def iter_buckets(
        self,
        metric: Metric,
        bucket_s: BucketSeconds = 3600.0,
        *,
        device: OfDevice | None = None,
        where: Where | None = None,
        start: Time | None = None,
        end: Time | None = None,
        tz: Zone = "UTC",
        points: Buckets = 1000,
    ) -> Iterator[BucketsResponse]:
        """Goes through all that ``list_buckets`` lists, page by page.

        A bucket begins where the clock of ``tz``, counted from 1970-01-01 00:00, is a multiple of ``bucket_s``: one of
        86,400 s is a calendar day, of 23 or 25 hours at a change of the clock; an hour that the clock runs through twice is
        two buckets. ``start`` of a bucket is in UTC.

        Buckets hold the numbers, with true as 1 and false as 0; ``texts`` counts the text readings, which are in no bucket.

        A page ends after ``points`` buckets or ``limit`` devices; the next page continues a series that was cut.

        Raises:
            NotFound: there is no such device, or it has sent no reading of the metric.
            QuerySyntaxError: the query cannot be read.
            Refused: ``tz`` is not a time zone.
        """
        return self._pages(
            "list_buckets",
            {
                "metric": metric,
                "bucket_s": bucket_s,
                "device": device,
                "where": where,
                "start": start,
                "end": end,
                "tz": tz,
                "points": points,
            },
            BucketsResponse,
        )

    def list_anomalies(
        self,
        device: OfDevice | None = None,
        *,
        newest: NewestFirst = False,
        limit: Limit = 100,
        cursor: Cursor | None = None,
    ) -> Page[AnomalyResponse]:
        """Lists the anomalies of one device or of all, the oldest reading first.

        Raises:
            NotFound: there is no such device.
        """
        return self._value(
            "list_anomalies",
            {"device": device, "newest": newest, "limit": limit, "cursor": cursor},
            Page[AnomalyResponse],
        )

    def iter_anomalies(
        self, device: OfDevice | None = None, *, newest: NewestFirst = False
    ) -> Iterator[AnomalyResponse]:
        """Goes through all that ``list_anomalies`` lists, page by page.

        Raises:
            NotFound: there is no such device.
        """
        return self._pages("list_anomalies", {"device": device, "newest": newest}, AnomalyResponse)

    def get_anomaly(self, anomaly: AnomalyId) -> AnomalyResponse:
        """Shows an anomaly.

        Raises:
            NotFound: there is no such anomaly.
        """
        return self._value("get_anomaly", {"anomaly": anomaly}, AnomalyResponse)

    def list_dead_letters(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[DeadLetterResponse]:
        """Lists the stored refused messages, the oldest first."""
        return self._value("list_dead_letters", {"limit": limit, "cursor": cursor}, Page[DeadLetterResponse])

    def iter_dead_letters(self) -> Iterator[DeadLetterResponse]:
        """Goes through all that ``list_dead_letters`` lists, page by page."""
        return self._pages("list_dead_letters", {}, DeadLetterResponse)

    def get_dead_letter(self, number: LetterNumber) -> DeadLetterResponse:
        """Shows a refused message with its payload.

        Raises:
            NotFound: there is no such message.
        """
        return self._value("get_dead_letter", {"number": number}, DeadLetterResponse)

    def replay_dead_letter(self, number: LetterNumber, *, reason: Reason = "") -> ReplayResponse:
        """Sends a refused message through the data path again, with its original time of receipt.

        If it is refused again, it is stored as a new one.

        Raises:
            NotFound: there is no such message.
            Refused: its payload was cut.
        """
        return self._value("replay_dead_letter", {"number": number, "reason": reason}, ReplayResponse)

    def discard_dead_letter(self, number: LetterNumber, *, reason: Reason = "") -> None:
        """Removes a refused message for good.

        Raises:
            NotFound: there is no such message.
        """
        self._value("discard_dead_letter", {"number": number, "reason": reason}, type(None))

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

    def diagnose_device(self, device_id: DeviceId) -> DiagnosisResponse:
        """Shows everything that affects a device, problems first.

        Raises:
            NotFound: there is no such device.
        """
        return self._value("diagnose_device", {"device_id": device_id}, DiagnosisResponse)

    def get_overview(
        self, *, where: Where | None = None, order: DeviceOrder | str = "silent", limit: First = 20
    ) -> OverviewResponse:
        """Shows devices by connectivity, the first of them in an order, traffic, anomalies, and the work under way.

        A query limits the devices and the anomalies. Counts are as old as ``as_of``: looking at all devices takes at most
        4 % of the server's time.

        Raises:
            QuerySyntaxError: the query cannot be read.
        """
        return self._value("get_overview", {"where": where, "order": order, "limit": limit}, OverviewResponse)

    def create_campaign(
        self,
        id: CampaignName,
        release: FirmwareVersion,
        devices: CampaignDevices = (),
        url: ImageUrl = "",
        *,
        where: CampaignWhere = "",
        continuous: Continuous = False,
        sha256: ImageDigest | None = None,
        size: ImageSize | None = None,
        manifest: Manifest | None = None,
        from_release: ReleaseId | None = None,
        allow_downgrade: AllowDowngrade = False,
        waves: Waves = (),
        min_succeeded: MinSucceeded = 0.95,
        wave_soak_s: WaveSoak = 0.0,
        max_failed: MaxFailedOf | None = None,
        min_executed: MinExecuted = 1,
        on_failure: WhatOnFailure | str = "pause",
        gate_window_s: GateWindow | None = None,
        gate_metrics: GateMetrics = (),
        gate_action: GateAction | str = "pause",
        gate_alpha: GateAlpha = 0.04,
        rate_per_minute: PerMinute | None = None,
        rate_factor: RateFactor = 1.0,
        retries: RetryTimes = 0,
        retry_after_s: RetryAfter = 300.0,
        soak_s: DeviceSoak = 0.0,
        step_timeout_s: StepTimeout = 86400.0,
        priority: CampaignPriority = 0,
        rollback_to: RollbackTo | None = None,
        rollback_version: RollbackVersion | None = None,
        rollback_sha256: RollbackDigest | None = None,
        windows: Windows = (),
        time_zone: TimeZone = "",
        start_spread_s: StartSpread = 0.0,
        requirement: Requirement = "",
        min_battery: MinBattery = 0.0,
        site_limit: SiteLimit = 0,
        consent: NeedsConsent = False,
        download_early: DownloadEarly = False,
        max_deferral_s: MaxDeferral | None = None,
        emergency: Emergency = "",
        hold: Hold = False,
        starts_at: Time | None = None,
        approval: NeedsApproval = False,
        reason: Reason = "",
    ) -> CampaignResponse:
        """Starts a campaign: one firmware version for some devices, which get their offers in the background.

        Without waves and rate all devices may fetch their offer at once. With waves a wave begins once enough devices of
        the one before have succeeded; where too few can, the campaign pauses.

        A health gate compares each updated device with devices that are still to be updated, of the same model and site,
        over the same time. It stops the campaign where updated ones are bad more often: they raise alerts, fall silent, or
        a metric moves. `campaign evidence` shows what it saw.

        Named devices are checked first. A query needs the permission for the whole fleet; its devices are checked at the
        offer, and `plan_campaign` shows those that would be refused.

        A device that may not install yet, by window, freeze, requirement, battery, site or consent, waits and does not
        fail; ``campaign why`` shows the reason.

        A manifest, or that of a release, names digest and size, and is checked for every device first. Without a digest the
        server fetches the URL once and pins the digest; until then the campaign stays a draft. Once there is a firmware
        root, a manifest is required.

        Raises:
            Conflict: a campaign of that name exists, a device is retired, or the manifest does not fit some device.
            NotFound: there is no such device, or no such release.
            Refused: neither or both of devices and a query; the image is missing: neither a URL, nor a digest, nor a
                manifest; or a window, the time zone or the requirement cannot be read.
        """
        return self._value(
            "create_campaign",
            {
                "id": id,
                "release": release,
                "devices": devices,
                "url": url,
                "where": where,
                "continuous": continuous,
                "sha256": sha256,
                "size": size,
                "manifest": manifest,
                "from_release": from_release,
                "allow_downgrade": allow_downgrade,
                "waves": waves,
                "min_succeeded": min_succeeded,
                "wave_soak_s": wave_soak_s,
                "max_failed": max_failed,
                "min_executed": min_executed,
                "on_failure": on_failure,
                "gate_window_s": gate_window_s,
                "gate_metrics": gate_metrics,
                "gate_action": gate_action,
                "gate_alpha": gate_alpha,
                "rate_per_minute": rate_per_minute,
                "rate_factor": rate_factor,
                "retries": retries,
                "retry_after_s": retry_after_s,
                "soak_s": soak_s,
                "step_timeout_s": step_timeout_s,
                "priority": priority,
                "rollback_to": rollback_to,
                "rollback_version": rollback_version,
                "rollback_sha256": rollback_sha256,
                "windows": windows,
                "time_zone": time_zone,
                "start_spread_s": start_spread_s,
                "requirement": requirement,
                "min_battery": min_battery,
                "site_limit": site_limit,
                "consent": consent,
                "download_early": download_early,
                "max_deferral_s": max_deferral_s,
                "emergency": emergency,
                "hold": hold,
                "starts_at": starts_at,
                "approval": approval,
                "reason": reason,
            },
            CampaignResponse,
        )

    def list_campaigns(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[CampaignResponse]:
        """Lists the campaigns whose devices the caller may all see, by name; a page may be short."""
        return self._value("list_campaigns", {"limit": limit, "cursor": cursor}, Page[CampaignResponse])

    def iter_campaigns(self) -> Iterator[CampaignResponse]:
        """Goes through all that ``list_campaigns`` lists, page by page."""
        return self._pages("list_campaigns", {}, CampaignResponse)

    def get_campaign(self, campaign: CampaignId) -> CampaignResponse:
        """Shows a campaign, and how many of its devices are in each state.

        Raises:
            NotFound: there is no such campaign.
        """
        return self._value("get_campaign", {"campaign": campaign}, CampaignResponse)

    def list_executions(
        self, campaign: CampaignId, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[ExecutionResponse]:
        """Lists the state of each device in a campaign, by device.

        Raises:
            NotFound: there is no such campaign.
        """
        return self._value(
            "list_executions", {"campaign": campaign, "limit": limit, "cursor": cursor}, Page[ExecutionResponse]
        )

    def iter_executions(self, campaign: CampaignId) -> Iterator[ExecutionResponse]:
        """Goes through all that ``list_executions`` lists, page by page.

        Raises:
            NotFound: there is no such campaign.
        """
        return self._pages("list_executions", {"campaign": campaign}, ExecutionResponse)

    def plan_campaign(
        self,
        campaign: CampaignId,
        *,
        fetch_s: FetchSeconds = 60.0,
        install_s: InstallSeconds = 300.0,
        fails: FailingShare = 0.0,
    ) -> CampaignPlanResponse:
        """Shows how a campaign goes on from its present state: its own rules on its own devices, under a virtual clock.

        Several courses are simulated, up to 20, one for a million devices, which takes some minutes. A health gate stops
        none of them, but each wave waits for its window. It also shows which devices could not be rolled back.

        Raises:
            NotFound: there is no such campaign.
            Conflict: it has ended, or its image is not pinned yet.
        """
        return self._value(
            "plan_campaign",
            {"campaign": campaign, "fetch_s": fetch_s, "install_s": install_s, "fails": fails},
            CampaignPlanResponse,
        )

    def get_campaign_evidence(self, campaign: CampaignId) -> CampaignEvidenceResponse:
        """Shows what a campaign's health gate has seen: how many updated devices are bad, and how many comparable ones.

        Raises:
            NotFound: there is no such campaign, or it has no gate.
        """
        return self._value("get_campaign_evidence", {"campaign": campaign}, CampaignEvidenceResponse)

    def report_campaign(self, campaign: CampaignId) -> CampaignReportResponse:
        """Shows what became of a campaign: its waves, failures by cause, slowest devices, and who did what.

        All its executions are read: a campaign with a million devices takes some minutes.

        Raises:
            NotFound: there is no such campaign.
        """
        return self._value("report_campaign", {"campaign": campaign}, CampaignReportResponse)

    def why_execution(self, campaign: CampaignId, device_id: DeviceId) -> WhyExecutionResponse:
        """Shows a device's part of a campaign: what it waits for now, and what was decided about it, the oldest first.

        Raises:
            NotFound: there is no such campaign, or the device is not in it.
        """
        return self._value("why_execution", {"campaign": campaign, "device_id": device_id}, WhyExecutionResponse)

    def approve_campaign(self, campaign: CampaignId, *, reason: Reason = "") -> CampaignResponse:
        """Approves a campaign that another person made: it begins, at its time.

        Raises:
            NotFound: there is no such campaign.
            Conflict: it waits for no approval.
            NotAuthorised: the same person made it.
        """
        return self._value("approve_campaign", {"campaign": campaign, "reason": reason}, CampaignResponse)

    def clone_campaign(
        self,
        campaign: CampaignId,
        id: NewCampaign,
        *,
        failed: OnlyFailed = False,
        hold: Hold = False,
        reason: Reason = "",
    ) -> CampaignResponse:
        """Starts a campaign with the image, the devices and the rollout of another one, for all of its devices or the rest.

        A campaign by query asks its query again, unless it is for the devices that were not updated; that needs the
        permission for the whole fleet. It begins at once; approval is needed as for the first one.

        Raises:
            NotFound: there is no such campaign.
            Conflict: a campaign of the new name exists, the other one is a draft, or a device is retired.
            Refused: no device is left.
        """
        return self._value(
            "clone_campaign",
            {"campaign": campaign, "id": id, "failed": failed, "hold": hold, "reason": reason},
            CampaignResponse,
        )

    def consent_to_update(self, campaign: CampaignId, device_id: DeviceId, *, reason: Reason = "") -> ExecutionResponse:
        """Says that a device's user agrees to the update; again, nothing changes.

        Raises:
            NotFound: there is no such campaign, or the device is not in it.
            Conflict: the device's update has ended.
        """
        return self._value(
            "consent_to_update", {"campaign": campaign, "device_id": device_id, "reason": reason}, ExecutionResponse
        )

    def abort_campaign(self, campaign: CampaignId, *, force: Force = False, reason: Reason = "") -> CampaignResponse:
        """Cancels the updates that have not started; devices that have started continue and are still tracked.

        With ``force`` they are cancelled too: their devices are told, and may have installed the version all the same.

        Raises:
            NotFound: there is no such campaign.
        """
        return self._value("abort_campaign", {"campaign": campaign, "force": force, "reason": reason}, CampaignResponse)

    def pause_campaign(self, campaign: CampaignId, *, reason: Reason = "") -> CampaignResponse:
        """Makes no new offers until the campaign is resumed; devices that have begun go on.

        Raises:
            NotFound: there is no such campaign.
            Conflict: it does not run.
        """
        return self._value("pause_campaign", {"campaign": campaign, "reason": reason}, CampaignResponse)

    def resume_campaign(self, campaign: CampaignId, *, reason: Reason = "") -> CampaignResponse:
        """Goes on with a paused campaign: its failures so far are accepted, and its limit counts the later ones.

        Raises:
            NotFound: there is no such campaign.
            Conflict: it is not paused.
        """
        return self._value("resume_campaign", {"campaign": campaign, "reason": reason}, CampaignResponse)

    def roll_back_campaign(self, campaign: CampaignId, *, reason: Reason = "") -> CampaignResponse:
        """Brings the devices back to the version that the campaign names for it, with a campaign `NAME-rollback`.

        Devices that have not begun to install are cancelled; all that have, or may have, the new version get an offer.

        Raises:
            NotFound: there is no such campaign.
            Conflict: it names no version to roll back to.
        """
        return self._value("roll_back_campaign", {"campaign": campaign, "reason": reason}, CampaignResponse)

    def add_freeze(
        self,
        id: NewFreeze,
        *,
        begin: Time | None = None,
        end: Time | None = None,
        where: FrozenDevices = "",
        reason: Reason = "",
    ) -> FreezeResponse:
        """Keeps devices from installing for some time: over the holidays, or, without an end, until further notice.

        Campaigns go on with the other devices. Updates that are being installed are not stopped, and a campaign with an
        emergency does not heed freezes.

        Raises:
            QuerySyntaxError: the query cannot be read.
            Refused: the end is not after the beginning, or there are too many freezes.
            Conflict: a freeze of that name exists.
        """
        return self._value(
            "add_freeze", {"id": id, "begin": begin, "end": end, "where": where, "reason": reason}, FreezeResponse
        )

    def list_freezes(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[FreezeResponse]:
        """Lists the freezes by name."""
        return self._value("list_freezes", {"limit": limit, "cursor": cursor}, Page[FreezeResponse])

    def iter_freezes(self) -> Iterator[FreezeResponse]:
        """Goes through all that ``list_freezes`` lists, page by page."""
        return self._pages("list_freezes", {}, FreezeResponse)

    def remove_freeze(self, freeze: FreezeName, *, reason: Reason = "") -> None:
        """Removes a freeze; the devices that it held may install within the hour.

        Raises:
            NotFound: there is no such freeze.
        """
        self._value("remove_freeze", {"freeze": freeze, "reason": reason}, type(None))

    def upload_artifact(
        self, content: Source, *, sha256: ImageDigest | None = None, size: AnnouncedSize | None = None
    ) -> ArtifactResponse:
        """Stores an image under its SHA-256; the same image again changes nothing, and a partial one is never stored.

        With a digest or a size, other content is refused. The upload ends if the caller loses the permission for it.

        Args:
            content: the image.

        Raises:
            Refused: the content differs from the given digest or size, or is too long.
        """
        return self._value("upload_artifact", {"content": content, "sha256": sha256, "size": size}, ArtifactResponse)

    def get_upload(self, sha256: ImageDigest, size: UploadSize) -> UploadResponse:
        """Shows how many bytes of an image have come, so that its upload can go on from there.

        An upload is known by the digest and the size of the whole image. It is removed when nothing comes for a day.

        Raises:
            Refused: the image is stored, and has another size.
        """
        return self._value("get_upload", {"sha256": sha256, "size": size}, UploadResponse)

    def continue_upload(
        self, content: Source, sha256: ImageDigest, size: UploadSize, *, offset: UploadOffset = 0
    ) -> UploadResponse:
        """Adds to an upload, from a byte on; with its last byte the image is verified and stored.

        Bytes that came stay when the connection breaks, the server ends or its store is full. A later request for the same
        upload takes its place.

        Args:
            content: the image's bytes from ``offset`` on, all or some of them.

        Raises:
            Conflict: the upload has come to another byte, or another request continues it.
            Refused: there are more bytes than announced, the digest is another one, or unfinished uploads are too large.
            Unavailable: the store is full.
        """
        return self._value(
            "continue_upload", {"content": content, "sha256": sha256, "size": size, "offset": offset}, UploadResponse
        )

    def get_artifact(self, sha256: ArtifactId) -> ArtifactResponse:
        """Shows whether an image is stored, and its size.

        Raises:
            NotFound: there is no such image.
        """
        return self._value("get_artifact", {"sha256": sha256}, ArtifactResponse)

    def add_release(
        self, manifest: Manifest, *, allow_downgrade: AllowDowngrade = False, reason: Reason = ""
    ) -> SignedReleaseResponse:
        """Releases firmware: verifies its manifest against the firmware root, for every model that it names, and stores it.

        Raises:
            NotFound: its image was not uploaded.
            Refused: the manifest or its signatures are not valid, or its seq is below the highest of its name.
            Conflict: that release exists with other content.
        """
        return self._value(
            "add_release",
            {"manifest": manifest, "allow_downgrade": allow_downgrade, "reason": reason},
            SignedReleaseResponse,
        )

    def list_releases(
        self, name: ReleaseName | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[ReleaseResponse]:
        """Lists releases by name and seq, without their manifests."""
        return self._value("list_releases", {"name": name, "limit": limit, "cursor": cursor}, Page[ReleaseResponse])

    def iter_releases(self, name: ReleaseName | None = None) -> Iterator[ReleaseResponse]:
        """Goes through all that ``list_releases`` lists, page by page."""
        return self._pages("list_releases", {"name": name}, ReleaseResponse)

    def get_release(self, release: SignedRelease) -> SignedReleaseResponse:
        """Shows a release with its manifest.

        Raises:
            NotFound: there is no such release.
        """
        return self._value("get_release", {"release": release}, SignedReleaseResponse)

    def make_delta(self, base: DeltaBase, target: DeltaTarget, *, reason: Reason = "") -> DeltaResponse:
        """Makes the delta from one image to another, which devices that run the first one are offered with the second.

        The images must not be compressed. It may take minutes; the same delta again is answered at once.

        Raises:
            NotFound: there is no such release or image.
            Conflict: the images are equal or compressed, or the delta has over half the size of the compressed image.
            Refused: the images are too large.
        """
        return self._value("make_delta", {"base": base, "target": target, "reason": reason}, DeltaResponse)

    def list_deltas(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[DeltaResponse]:
        """Lists the deltas between images, with their sizes and those of the whole images."""
        return self._value("list_deltas", {"limit": limit, "cursor": cursor}, Page[DeltaResponse])

    def iter_deltas(self) -> Iterator[DeltaResponse]:
        """Goes through all that ``list_deltas`` lists, page by page."""
        return self._pages("list_deltas", {}, DeltaResponse)

    def set_firmware_root(self, envelope: RootEnvelope, *, reason: Reason = "") -> FirmwareRootResponse:
        """Sets the next version of the firmware root; the first one is trusted without a check.

        A later one is signed by a threshold of the old and of the new root keys. The same version again changes nothing.

        Raises:
            Conflict: that version exists with other content.
            Refused: it is not the next version, or has too few signatures.
        """
        return self._value("set_firmware_root", {"envelope": envelope, "reason": reason}, FirmwareRootResponse)

    def list_firmware_roots(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[FirmwareRootResponse]:
        """Lists every version of the firmware root, the first one first."""
        return self._value("list_firmware_roots", {"limit": limit, "cursor": cursor}, Page[FirmwareRootResponse])

    def iter_firmware_roots(self) -> Iterator[FirmwareRootResponse]:
        """Goes through all that ``list_firmware_roots`` lists, page by page."""
        return self._pages("list_firmware_roots", {}, FirmwareRootResponse)

    def get_firmware_root(self, number: RootNumber = "current") -> FirmwareRootResponse:
        """Shows a version of the firmware root.

        Raises:
            NotFound: there is no such version, or no firmware root.
        """
        return self._value("get_firmware_root", {"number": number}, FirmwareRootResponse)

    def list_operations(
        self, *, kind: OperationKind | None = None, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[OperationResponse]:
        """Lists operations, the newest first: all, or the caller's own."""
        return self._value("list_operations", {"kind": kind, "limit": limit, "cursor": cursor}, Page[OperationResponse])

    def iter_operations(self, *, kind: OperationKind | None = None) -> Iterator[OperationResponse]:
        """Goes through all that ``list_operations`` lists, page by page."""
        return self._pages("list_operations", {"kind": kind}, OperationResponse)

    def get_operation(self, operation: OperationId) -> OperationResponse:
        """Shows an operation: its progress, and its failures.

        Raises:
            NotFound: there is no such operation, or it is another principal's.
        """
        return self._value("get_operation", {"operation": operation}, OperationResponse)

    def cancel_operation(self, operation: OperationId, *, reason: Reason = "") -> OperationResponse:
        """Stops an operation before its next item; finished items stay done.

        The queued commands of a bulk command are cancelled, and devices that were asked to renew are not asked again.
        Stopping another principal's operation requires the permission for the whole fleet.

        Raises:
            NotFound: there is no such operation, or it is another principal's.
        """
        return self._value("cancel_operation", {"operation": operation, "reason": reason}, OperationResponse)

    def pause_operation(self, operation: OperationId, *, reason: Reason = "") -> OperationResponse:
        """Pauses an operation: it starts no more items until it is resumed; items in progress finish.

        Raises:
            NotFound: there is no such operation, or it is another principal's.
            Conflict: it has ended, or its kind always runs to the end.
        """
        return self._value("pause_operation", {"operation": operation, "reason": reason}, OperationResponse)

    def resume_operation(self, operation: OperationId, *, reason: Reason = "") -> OperationResponse:
        """Resumes a paused operation.

        Raises:
            NotFound: there is no such operation, or it is another principal's.
            Conflict: it has ended.
        """
        return self._value("resume_operation", {"operation": operation, "reason": reason}, OperationResponse)

    def watch_events(
        self, *, after: After | None = None, type: TypePrefixes = (), where: Where | None = None, marks: Marks = False
    ) -> Iterator[EventResponse]:
        """Follows events as they are committed: those that the caller may see, from now on or after a position.

        A query limits them to events about devices that it selects when they are sent.

        With ``marks`` a watch that has seen no event can be resumed exactly, too.

        The events of a commit come together. If the caller's rights change during a commit, that commit is sent again under
        the new rights.

        Raises:
            QuerySyntaxError: the query cannot be read.
            Refused: the passing of time alone changes what the query selects.
            NotFound: the feed after that position is trimmed; ``ids["oldest"]`` is the first available position.
            NotAuthenticated: the caller's token has ended.
            NotAuthorised: the caller may no longer follow events.
        """
        return self._stream(
            "watch_events", {"after": after, "type": type, "where": where, "marks": marks}, EventResponse
        )

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
        """Makes an enrolment token, for one registered device or for new devices. Its secret is returned once.

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
        """Creates a claim certificate, with which the devices of a batch enrol. Its key is returned once.

        Raises:
            Conflict: a batch of that name exists.
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

    def disable_claim(self, batch: ClaimName, *, reason: Reason = "") -> ClaimResponse:
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
        name: NewManufacturer,
        pem: ManufacturerPem,
        *,
        admits: Admission | str = "waiting",
        device_type: NewDeviceType = "device",
        model: NewDeviceModel | None = None,
        tags: NewDeviceTags = (),
        reason: Reason = "",
    ) -> ManufacturerResponse:
        """Registers a manufacturer's CA. Its devices may enrol once the CA is proven.

        The proof is a certificate signed by the CA whose common name is the ``nonce`` of the answer.

        Raises:
            Refused: it is not a CA certificate, it is too weak or expired, or the CA is one of the fleet's own.
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
        """Lists the keys that asked to enrol."""
        return self._value(
            "list_enrollments", {"state": state, "limit": limit, "cursor": cursor}, Page[EnrollmentResponse]
        )

    def iter_enrollments(self, state: WantedState | str | None = None) -> Iterator[EnrollmentResponse]:
        """Goes through all that ``list_enrollments`` lists, page by page."""
        return self._pages("list_enrollments", {"state": state}, EnrollmentResponse)

    def get_enrollment(self, enrollment: EnrollmentId) -> EnrollmentResponse:
        """Shows a key that asked to enrol.

        Raises:
            NotFound: there is no such enrolment.
        """
        return self._value("get_enrollment", {"enrollment": enrollment}, EnrollmentResponse)

    def approve_enrollment(
        self, enrollment: EnrollmentId, *, replace: Replace = False, reason: Reason = ""
    ) -> EnrollmentResponse:
        """Accepts a key: the device gets its certificate when it asks again.

        Compare the fingerprint with the one on the device; colons and capitals are ignored.

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
        """Revokes a certificate and ends its sessions; the device's other certificates stay. Repeating it changes nothing.

        Raises:
            NotFound: there is no such certificate.
        """
        return self._value("revoke_certificate", {"certificate": certificate, "reason": reason}, ChangedResponse)

    def revoke_device(self, device_id: DeviceId, *, reason: Reason = "") -> ChangedResponse:
        """Revokes every certificate and token of a device and ends its sessions; returns how many it revoked.

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

    def list_cas(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[CaResponse]:
        """Lists the CAs: which one signs, which are trusted, when each expires and when its successor is due.

        They are roots, issuing CAs, former ones whose revocation lists are still made, and the cross certificate.
        """
        return self._value("list_cas", {"limit": limit, "cursor": cursor}, Page[CaResponse])

    def iter_cas(self) -> Iterator[CaResponse]:
        """Goes through all that ``list_cas`` lists, page by page.

        They are roots, issuing CAs, former ones whose revocation lists are still made, and the cross certificate.
        """
        return self._pages("list_cas", {}, CaResponse)

    def renew_issuing_ca(self, *, reason: Reason = "") -> StepResponse:
        """Makes a new issuing CA under the same root, which signs from now on; the one before stays trusted.

        Raises:
            IllegalTransition: a rotation is in progress.
            Conflict: ``root_offline``; the root's key is offline and not unlocked.
        """
        return self._value("renew_issuing_ca", {"reason": reason}, StepResponse)

    def get_ca_incident(self, ca: CaId) -> IncidentResponse:
        """Lists the devices with certificates of an issuing CA; ``sole_certificate`` marks those without any other.

        Raises:
            NotFound: there is no such issuing CA.
        """
        return self._value("get_ca_incident", {"ca": ca}, IncidentResponse)

    def distrust_ca(self, ca: CaId, *, force: ForceDistrust = False, reason: Reason = "") -> StepResponse:
        """Ends trust in an issuing CA whose key is compromised: all its certificates are refused from now on.

        Raises:
            NotFound: no such issuing CA is trusted.
            Conflict: it signs now, it is the only one under its root, or ``devices_would_be_locked_out``.
        """
        return self._value("distrust_ca", {"ca": ca, "force": force, "reason": reason}, StepResponse)

    def get_ca_rotation(self) -> RotationResponse:
        """Shows the phase of a rotation, how many devices confirmed the new bundle, and which retiring would lock out."""
        return self._value("get_ca_rotation", {}, RotationResponse)

    def rotate_ca(
        self, step: RotationStep, *, threshold: Threshold = 1.0, force: ForceStep = False, reason: Reason = ""
    ) -> StepResponse:
        """Takes a step from one root to the next; until ``retire``, ``back`` undoes the last step.

        ``begin`` announces a new root: both are trusted, devices get the new bundle, the old one still signs. ``issue``
        makes the new root's CA sign. ``retire`` ends trust in the old root, for good.

        Raises:
            IllegalTransition: the step is not possible in this phase.
            Conflict: ``devices_would_be_locked_out``, or ``root_offline``: the root's key is offline and not unlocked.
        """
        return self._value(
            "rotate_ca", {"step": step, "threshold": threshold, "force": force, "reason": reason}, StepResponse
        )

    def unlock_root_key(self, key: RootKey, *, passphrase: Passphrase | None = None) -> None:
        """Unlocks an offline root's key for the next call that needs it, for ten minutes; it is not stored.

        Raises:
            ConfigError: the key cannot be read.
            Refused: it is not the key of a trusted root.
        """
        self._value("unlock_root_key", {"key": key, "passphrase": passphrase}, type(None))

    def take_root_offline(
        self,
        file: ServerFile,
        *,
        passphrase: Passphrase | None = None,
        number: OfflineRoot | None = None,
        reason: Reason = "",
    ) -> RootOfflineResponse:
        """Moves a root's key out of the data folder into a new file. Only a rotation and a new issuing CA need it.

        The file is encrypted with the passphrase, or without one with that of the folder's own keys, if there is one.

        Raises:
            NotFound: the folder holds no such key.
            Refused: the fleet is in memory, or the keys of two roots are in the folder and ``number`` selects neither.
        """
        return self._value(
            "take_root_offline",
            {"file": file, "passphrase": passphrase, "number": number, "reason": reason},
            RootOfflineResponse,
        )

    def forecast_certificates(
        self,
        *,
        per: ForecastPeriod = "week",
        periods: Periods = 12,
        by: CountedBy | None = None,
        where: Where | None = None,
        next: NextEndings = 10,
    ) -> ForecastResponse:
        """Counts the certificates that expire in each coming week or month; lists the next ones, and late renewals.

        It also shows when the CAs and the server's own certificates expire.

        Raises:
            QuerySyntaxError: the query cannot be read.
        """
        return self._value(
            "forecast_certificates",
            {"per": per, "periods": periods, "by": by, "where": where, "next": next},
            ForecastResponse,
        )

    def check_certificate(self, pem: CertificatePem) -> CertificateCheckResponse:
        """Checks a certificate as if a device had presented it: whether it is valid now, and why it is refused."""
        return self._value("check_certificate", {"pem": pem}, CertificateCheckResponse)

    def get_revocation_lists(self) -> RevocationListsResponse:
        """Gives the revocation lists, PEM, of every issuing CA with unexpired certificates."""
        return self._value("get_revocation_lists", {}, RevocationListsResponse)

    def plan_renewals(
        self,
        *,
        where: Where | None = None,
        devices: DeviceChoice = (),
        outdated: Outdated = False,
        waves: Waves = ("1", "10%"),
        cap: Cap = 1000,
        rate_per_s: RatePerS | None = None,
        timeout_s: TimeoutS = 86400.0,
        max_failed: MaxFailed = 0.05,
        plan: PlanDigest | None = None,
        reason: Reason = "",
    ) -> RenewalPlanResponse:
        """Shows which devices a renewal would ask for new certificates, and in which waves.

        It takes the parameters of ``renew_certificates``; rate, time, failures, plan and reason have no effect here.

        Raises:
            NotFound: there is no such device.
            QuerySyntaxError: the query cannot be read.
            Refused: a query and devices, or neither of them and not ``outdated``.
        """
        return self._value(
            "plan_renewals",
            {
                "where": where,
                "devices": devices,
                "outdated": outdated,
                "waves": waves,
                "cap": cap,
                "rate_per_s": rate_per_s,
                "timeout_s": timeout_s,
                "max_failed": max_failed,
                "plan": plan,
                "reason": reason,
            },
            RenewalPlanResponse,
        )

    def renew_certificates(
        self,
        *,
        where: Where | None = None,
        devices: DeviceChoice = (),
        outdated: Outdated = False,
        waves: Waves = ("1", "10%"),
        cap: Cap = 1000,
        rate_per_s: RatePerS | None = None,
        timeout_s: TimeoutS = 86400.0,
        max_failed: MaxFailed = 0.05,
        plan: PlanDigest | None = None,
        reason: Reason = "",
    ) -> OperationResponse:
        """Asks the devices of ``plan_renewals`` for new certificates with new keys, in waves, in the background.

        It stops when more than the share ``max_failed`` of the devices in the waves so far has failed.

        Raises:
            NotFound: there is no such device.
            Conflict: ``plan_changed``, other devices are selected now.
            Refused: ``precondition_required`` without a plan, ``limit_exceeded`` beyond the cap, and as ``plan_renewals``.
        """
        return self._value(
            "renew_certificates",
            {
                "where": where,
                "devices": devices,
                "outdated": outdated,
                "waves": waves,
                "cap": cap,
                "rate_per_s": rate_per_s,
                "timeout_s": timeout_s,
                "max_failed": max_failed,
                "plan": plan,
                "reason": reason,
            },
            OperationResponse,
        )

    def reissue_certificate(
        self, device_id: DeviceId, *, timeout_s: TimeoutS = 86400.0, reason: Reason = ""
    ) -> OperationResponse:
        """Asks a device for a new certificate with a new key; the operation ends when the device has connected with it.

        Raises:
            NotFound: there is no such device.
            Conflict: it has no certificate to renew.
        """
        return self._value(
            "reissue_certificate", {"device_id": device_id, "timeout_s": timeout_s, "reason": reason}, OperationResponse
        )

    def list_tokens(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[TokenResponse]:
        """Lists tokens with principal, expiry and last use; revoked and expired ones too."""
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
        """Makes a token for a principal, and grants roles to it; the token is returned only this once.

        Its rights are the principal's, limited to ``permissions`` if given.

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

    def get_token(self, token_id: TokenId) -> TokenResponse:
        """Shows a token by its id, without the token itself.

        Raises:
            NotFound: there is no such token.
        """
        return self._value("get_token", {"token_id": token_id}, TokenResponse)

    def revoke_token(self, token_id: TokenId, *, reason: Reason = "") -> None:
        """Revokes a token at once. Repeating it changes nothing.

        Raises:
            NotFound: there is no such token.
        """
        self._value("revoke_token", {"token_id": token_id, "reason": reason}, type(None))

    def list_roles(
        self, principal: Principal | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[RoleResponse]:
        """Lists grants of roles with scope and grantor, of one principal or of all."""
        return self._value("list_roles", {"principal": principal, "limit": limit, "cursor": cursor}, Page[RoleResponse])

    def iter_roles(self, principal: Principal | None = None) -> Iterator[RoleResponse]:
        """Goes through all that ``list_roles`` lists, page by page."""
        return self._pages("list_roles", {"principal": principal}, RoleResponse)

    def grant_role(
        self, principal: Principal, role: GrantedRole | str, *, scope: RoleScope = "", reason: Reason = ""
    ) -> RoleResponse:
        """Grants a role to a principal; all its tokens have the role from the next request on.

        The same grant again returns the existing one.

        Raises:
            QuerySyntaxError: the scope is neither a group nor a query.
        """
        return self._value(
            "grant_role", {"principal": principal, "role": role, "scope": scope, "reason": reason}, RoleResponse
        )

    def revoke_role(self, grant_id: GrantId, *, reason: Reason = "") -> None:
        """Revokes a role by the id of its grant, which ``list_roles`` and `token roles` list.

        Raises:
            NotFound: there is no such grant.
        """
        self._value("revoke_role", {"grant_id": grant_id, "reason": reason}, type(None))

    def list_audit(
        self,
        *,
        object: ObjectName | None = None,
        actor: ActorName | None = None,
        action: ActionName | None = None,
        device: DeviceName | None = None,
        since: Time | None = None,
        after: RowNumber | None = None,
        limit: Limit = 100,
        cursor: Cursor | None = None,
    ) -> Page[AuditRowResponse]:
        """Lists rows of the audit log, the newest first; with ``after`` the oldest first."""
        return self._value(
            "list_audit",
            {
                "object": object,
                "actor": actor,
                "action": action,
                "device": device,
                "since": since,
                "after": after,
                "limit": limit,
                "cursor": cursor,
            },
            Page[AuditRowResponse],
        )

    def iter_audit(
        self,
        *,
        object: ObjectName | None = None,
        actor: ActorName | None = None,
        action: ActionName | None = None,
        device: DeviceName | None = None,
        since: Time | None = None,
        after: RowNumber | None = None,
    ) -> Iterator[AuditRowResponse]:
        """Goes through all that ``list_audit`` lists, page by page."""
        return self._pages(
            "list_audit",
            {"object": object, "actor": actor, "action": action, "device": device, "since": since, "after": after},
            AuditRowResponse,
        )

    def verify_audit(self, checkpoints: Checkpoints | None = None) -> VerdictResponse:
        """Recomputes every hash and compares with signed checkpoints: the given ones, or else the server's."""
        return self._value("verify_audit", {"checkpoints": checkpoints}, VerdictResponse)

    def get_status(self) -> StatusResponse:
        """Shows what runs: protocols, queue, counts of readings, consumers and their positions, failed tasks, plugins."""
        return self._value("get_status", {}, StatusResponse)

    def list_detectors(self) -> Page[InstanceResponse]:
        """Lists the detectors configured in fleet.toml."""
        return self._value("list_detectors", {}, Page[InstanceResponse])

    def list_notifiers(self) -> Page[InstanceResponse]:
        """Lists the notifiers configured in fleet.toml."""
        return self._value("list_notifiers", {}, Page[InstanceResponse])

    def list_plugins(self) -> Page[PluginResponse]:
        """Lists the plugins that the server has loaded, or tried to. Plugins are installed from a shell, not by calls."""
        return self._value("list_plugins", {}, Page[PluginResponse])

    def back_up(self, target: BackupFolder) -> BackupResponse:
        """Copies the data folder into a new or empty folder on the server's machine, consistent as of one moment.

        The copy holds the CA's keys: guard it. ``problems`` lists damage in the copied data.

        Raises:
            Conflict: the folder is not empty, or lies in the data folder.
            Refused: the fleet is in memory.
        """
        return self._value("back_up", {"target": target}, BackupResponse)

    def check_storage(self) -> StorageCheckResponse:
        """Checks the stored data for consistency and lists problems; ``verify_storage`` reads everything.

        Counters that differ from what they count are corrected; ``recounted`` lists them.
        """
        return self._value("check_storage", {}, StorageCheckResponse)

    def check_listeners(self) -> ListenersCheckResponse:
        """Tries every device listener as an unknown device, and returns the results.

        Each attempt is counted, and recorded in the audit log, as a refused certificate.
        """
        return self._value("check_listeners", {}, ListenersCheckResponse)

    def verify_storage(self, after: VerifyPlace | None = None) -> StorageVerifyResponse:
        """Reads a part of all stored data, about a second's worth, and compares it with its checksums.

        Call it again with the answer's ``next`` as ``after``, until that is null.

        Raises:
            Refused: ``after`` does not name a part.
        """
        return self._value("verify_storage", {"after": after}, StorageVerifyResponse)

    def wait_idle(self) -> None:
        """Returns when every detector and notifier has processed all accepted data; for a remote client, its own writes."""
        self._value("wait_idle", {}, type(None))

    def get_storage(self) -> StorageResponse:
        """Shows how much room the store takes by part, its limit, and what retention dropped so far."""
        return self._value("get_storage", {}, StorageResponse)

    def list_due_readings(
        self,
        *,
        days: Days | None = None,
        metric: OfMetrics | None = None,
        limit: Limit = 100,
        cursor: Cursor | None = None,
    ) -> Page[MetricRetentionResponse]:
        """Lists what retention would drop now, metric by metric: a dry run, which drops nothing.

        Without ``days`` the configured periods apply. Readings received within the last hour are dropped an hour later.

        Raises:
            Refused: the store does not drop readings by age.
        """
        return self._value(
            "list_due_readings",
            {"days": days, "metric": metric, "limit": limit, "cursor": cursor},
            Page[MetricRetentionResponse],
        )

    def iter_due_readings(
        self, *, days: Days | None = None, metric: OfMetrics | None = None
    ) -> Iterator[MetricRetentionResponse]:
        """Goes through all that ``list_due_readings`` lists, page by page.

        Without ``days`` the configured periods apply. Readings received within the last hour are dropped an hour later.

        Raises:
            Refused: the store does not drop readings by age.
        """
        return self._pages("list_due_readings", {"days": days, "metric": metric}, MetricRetentionResponse)

    def list_left_behind(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[LeftBehindResponse]:
        """Lists detectors, notifiers and clouds that are no longer configured and still hold the log back."""
        return self._value("list_left_behind", {"limit": limit, "cursor": cursor}, Page[LeftBehindResponse])

    def iter_left_behind(self) -> Iterator[LeftBehindResponse]:
        """Goes through all that ``list_left_behind`` lists, page by page."""
        return self._pages("list_left_behind", {}, LeftBehindResponse)

    def drop_left_behind(self, name: LeftBehindName, *, reason: Reason = "") -> None:
        """Drops the cursor and the state of a component that is no longer configured, before this happens automatically.

        Raises:
            NotFound: it left nothing behind.
            Conflict: it is configured.
        """
        self._value("drop_left_behind", {"name": name, "reason": reason}, type(None))

    def list_mirrors(self, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[MirrorResponse]:
        """Lists the mirrors and their states."""
        return self._value("list_mirrors", {"limit": limit, "cursor": cursor}, Page[MirrorResponse])

    def iter_mirrors(self) -> Iterator[MirrorResponse]:
        """Goes through all that ``list_mirrors`` lists, page by page."""
        return self._pages("list_mirrors", {}, MirrorResponse)

    def get_mirror(self, name: MirrorName) -> MirrorResponse:
        """Shows the state of a mirror."""
        return self._value("get_mirror", {"name": name}, MirrorResponse)

    def pause_mirror(self, name: MirrorName, *, entity: Entity | None = None, reason: Reason = "") -> MirrorResponse:
        """Pauses a mirror: it sends no state until it is resumed, also across restarts; changes wait meanwhile.

        With ``entity``, only that entity is paused and stays as the hub has it.
        """
        return self._value("pause_mirror", {"name": name, "entity": entity, "reason": reason}, MirrorResponse)

    def resume_mirror(self, name: MirrorName, *, entity: Entity | None = None, reason: Reason = "") -> MirrorResponse:
        """Resumes a mirror at once, also after failures and rejected credentials; or one paused entity.

        Raises:
            NotFound: the entity is not paused.
        """
        return self._value("resume_mirror", {"name": name, "entity": entity, "reason": reason}, MirrorResponse)

    def resync_mirror(self, name: MirrorName, *, entity: Entity | None = None, reason: Reason = "") -> MirrorResponse:
        """Makes a mirror check every entity again, including those it could not send; unchanged ones are not sent again.

        A hub that cannot be read gets everything again.

        With ``entity`` only that one is checked, such as a dead letter.

        Raises:
            NotFound: neither side has the entity.
        """
        return self._value("resync_mirror", {"name": name, "entity": entity, "reason": reason}, MirrorResponse)

    def apply_mirror(self, name: MirrorName, *, reason: Reason = "") -> OperationResponse:
        """Reads the hub and repairs the differences; ``list_mirror_drift`` shows them first.

        It runs in the background. The mirror itself sends what was found: ``waiting`` is how much is left.
        """
        return self._value("apply_mirror", {"name": name, "reason": reason}, OperationResponse)

    def list_mirror_import(
        self, name: MirrorName, *, after: Cursor | None = None, type: DefaultType = "device"
    ) -> MirrorImportableResponses:
        """Shows what an import would do with devices and groups that others have made at the hub; changes nothing.

        Call it again with the answer's ``next`` as ``after``, until that is null. It does not read twins.

        Raises:
            Refused: this hub does not support imports, or the mirror does not mirror devices.
            Unavailable: the hub is not open, or does not answer.
        """
        return self._value(
            "list_mirror_import", {"name": name, "after": after, "type": type}, MirrorImportableResponses
        )

    def import_mirror(
        self, name: MirrorName, *, type: DefaultType = "device", reason: Reason = ""
    ) -> OperationResponse:
        """Imports what others have made at a hub: devices, their twins, groups and their members.

        ``list_mirror_import`` shows it first. It runs in the background, also across restarts. What the fleet already has
        is left unchanged, and listed among the failures.

        Raises:
            Refused: this hub does not support imports, or the mirror does not mirror devices.
            Unavailable: the hub is not open.
        """
        return self._value("import_mirror", {"name": name, "type": type, "reason": reason}, OperationResponse)

    def allow_mirror_removals(self, name: MirrorName, count: Removals, *, reason: Reason = "") -> MirrorResponse:
        """Raises today's limit ``removals_per_day`` of a mirror by some entities."""
        return self._value("allow_mirror_removals", {"name": name, "count": count, "reason": reason}, MirrorResponse)

    def check_mirror(self, name: MirrorName) -> MirrorCheckResponse:
        """Checks the credentials, permissions and quotas that a mirror needs at its hub; changes nothing there.

        Raises:
            Unavailable: the hub is not open, or does not answer.
        """
        return self._value("check_mirror", {"name": name}, MirrorCheckResponse)

    def get_mirror_policy(self, name: MirrorName) -> MirrorPolicyResponse:
        """Shows the least rights that a mirror's credentials need at its hub, as it is configured.

        Raises:
            Unavailable: the backend is not open.
        """
        return self._value("get_mirror_policy", {"name": name}, MirrorPolicyResponse)

    def plan_mirror(
        self, name: MirrorName, *, limit: Scan = 100, cursor: Cursor | None = None
    ) -> Page[MirrorChangeResponse]:
        """Shows what a mirror would send of the next entities, and what the hub could not hold of them; sends nothing.

        ``limit`` is how many are examined; a page has those that would be sent.

        Raises:
            Unavailable: the hub is not open.
        """
        return self._value("plan_mirror", {"name": name, "limit": limit, "cursor": cursor}, Page[MirrorChangeResponse])

    def iter_plan_mirror(self, name: MirrorName) -> Iterator[MirrorChangeResponse]:
        """Goes through all that ``plan_mirror`` lists, page by page.

        ``limit`` is how many are examined; a page has those that would be sent.

        Raises:
            Unavailable: the hub is not open.
        """
        return self._pages("plan_mirror", {"name": name}, MirrorChangeResponse)

    def list_mirror_drift(
        self, name: MirrorName, *, after: Cursor | None = None, limit: Scan = 100
    ) -> MirrorDriftsResponse:
        """Reads a part of the hub and shows where it differs from the fleet, including changes that wait to be sent.

        For a hub that cannot be read, the fleet is compared with what the hub accepted, and ``against`` says so.

        ``limit`` is how many entities are compared. Call it again with the answer's ``next`` as ``after``, until that is
        null; the last part has entities that only the hub has, with this fleet's mark.

        Raises:
            Unavailable: the hub is not open, or does not answer.
            CredentialsRejected: the hub rejects the credentials.
        """
        return self._value("list_mirror_drift", {"name": name, "after": after, "limit": limit}, MirrorDriftsResponse)

    def list_mirror_dead_letters(
        self, name: MirrorName, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[MirrorDeadLetterResponse]:
        """Lists the entities that the hub refuses, with the reason."""
        return self._value(
            "list_mirror_dead_letters", {"name": name, "limit": limit, "cursor": cursor}, Page[MirrorDeadLetterResponse]
        )

    def iter_mirror_dead_letters(self, name: MirrorName) -> Iterator[MirrorDeadLetterResponse]:
        """Goes through all that ``list_mirror_dead_letters`` lists, page by page."""
        return self._pages("list_mirror_dead_letters", {"name": name}, MirrorDeadLetterResponse)

    def list_mirror_losses(
        self, name: MirrorName, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[MirrorDeadLetterResponse]:
        """Lists the entities that the hub holds in part, with what it cannot hold."""
        return self._value(
            "list_mirror_losses", {"name": name, "limit": limit, "cursor": cursor}, Page[MirrorDeadLetterResponse]
        )

    def iter_mirror_losses(self, name: MirrorName) -> Iterator[MirrorDeadLetterResponse]:
        """Goes through all that ``list_mirror_losses`` lists, page by page."""
        return self._pages("list_mirror_losses", {"name": name}, MirrorDeadLetterResponse)

    def list_mirror_paused(
        self, name: MirrorName, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[MirrorPausedResponse]:
        """Lists the entities that are paused and stay as the hub has them."""
        return self._value(
            "list_mirror_paused", {"name": name, "limit": limit, "cursor": cursor}, Page[MirrorPausedResponse]
        )

    def iter_mirror_paused(self, name: MirrorName) -> Iterator[MirrorPausedResponse]:
        """Goes through all that ``list_mirror_paused`` lists, page by page."""
        return self._pages("list_mirror_paused", {"name": name}, MirrorPausedResponse)

    def list_mirror_refused_commands(
        self, name: MirrorName, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[MirrorRefusedCommandResponse]:
        """Lists the newest commands of the hub that the fleet refused since the server started, 100 at most."""
        return self._value(
            "list_mirror_refused_commands",
            {"name": name, "limit": limit, "cursor": cursor},
            Page[MirrorRefusedCommandResponse],
        )

    def iter_mirror_refused_commands(self, name: MirrorName) -> Iterator[MirrorRefusedCommandResponse]:
        """Goes through all that ``list_mirror_refused_commands`` lists, page by page."""
        return self._pages("list_mirror_refused_commands", {"name": name}, MirrorRefusedCommandResponse)

    def list_mirror_refused_readings(
        self, name: MirrorName, *, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[MirrorRefusedReadingResponse]:
        """Lists the newest readings that the hub refused since the server started, 100 at most."""
        return self._value(
            "list_mirror_refused_readings",
            {"name": name, "limit": limit, "cursor": cursor},
            Page[MirrorRefusedReadingResponse],
        )

    def iter_mirror_refused_readings(self, name: MirrorName) -> Iterator[MirrorRefusedReadingResponse]:
        """Goes through all that ``list_mirror_refused_readings`` lists, page by page."""
        return self._pages("list_mirror_refused_readings", {"name": name}, MirrorRefusedReadingResponse)

    def plan_cutover(
        self, to: Side, devices: Devices = (), *, where: Where | None = None, waves: Waves = ("1", "10%")
    ) -> list[CutoverPlanResponse]:
        """Shows which devices a cut-over would offer to move, in which wave, and why it skips others.

        Raises:
            NotFound: there is no such mirror.
            QuerySyntaxError: the query cannot be read.
            Refused: neither or both of ``where`` and ``devices``, or a wave is neither a number nor a share.
        """
        return self._value(
            "plan_cutover", {"to": to, "devices": devices, "where": where, "waves": waves}, list[CutoverPlanResponse]
        )

    def start_cutover(
        self,
        to: Side,
        devices: Devices = (),
        *,
        where: Where | None = None,
        endpoint: Endpoint | None = None,
        roots: Roots | None = None,
        tries: Tries = 5,
        timeout_s: Timeout = 86400.0,
        at_once: AtOnce = 10,
        waves: Waves = ("1", "10%"),
        max_failed: MaxFailed = 0.05,
        reason: Reason = "",
    ) -> OperationResponse:
        """Moves devices to another side, in waves; each keeps its present side until the new one confirms it.

        ``plan_cutover`` shows first which devices can move. A device that does not arrive stays where it is. When more than
        the share ``max_failed`` of the devices in the waves so far has stayed, the operation withdraws the open offers and
        stops. While it is paused it makes no offers; cancelling it withdraws the open ones. Another cut-over brings devices
        back.

        Raises:
            NotFound: there is no such mirror.
            QuerySyntaxError: the query cannot be read.
            Refused: an endpoint is missing, and as ``plan_cutover``.
        """
        return self._value(
            "start_cutover",
            {
                "to": to,
                "devices": devices,
                "where": where,
                "endpoint": endpoint,
                "roots": roots,
                "tries": tries,
                "timeout_s": timeout_s,
                "at_once": at_once,
                "waves": waves,
                "max_failed": max_failed,
                "reason": reason,
            },
            OperationResponse,
        )

    def list_cutovers(
        self, *, operation: OfOperation | None = None, limit: Limit = 100, cursor: Cursor | None = None
    ) -> Page[CutoverResponse]:
        """Lists the last cut-over of each device, or those of an operation."""
        return self._value(
            "list_cutovers", {"operation": operation, "limit": limit, "cursor": cursor}, Page[CutoverResponse]
        )

    def iter_cutovers(self, *, operation: OfOperation | None = None) -> Iterator[CutoverResponse]:
        """Goes through all that ``list_cutovers`` lists, page by page."""
        return self._pages("list_cutovers", {"operation": operation}, CutoverResponse)

    @abstractmethod
    def _stream(self, name: str, given: Mapping[str, Any], kind: type[T]) -> Iterator[T]:
        """The items of a call that streams; raises what the call raises."""

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
