"""Event types: the registry of every kind of event that a fleet writes.

The registry alone decides who may see an event, whether the audit log records it, which parts of a device's document it
changes, and what a mirror sends to its hub. It is closed: a stored event of an unknown type, from an older release or a
removed plugin, is audited and shown to administrators only. Plugins add types under ``x.NAME.`` with the hook
``fleetcore_events``; :class:`EventTypes` is the registry of one open fleet.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType, UnionType

from attrs import frozen

from fleetcore.errors import Refused
from fleetcore.model.command import CommandState
from fleetcore.model.cutover import CutoverState
from fleetcore.model.device import Lifecycle
from fleetcore.model.firmware import CampaignState, ExecutionState
from fleetcore.model.mirror import OF_DEVICES, EntityKey, Facet
from fleetcore.model.operation import OperationState
from fleetcore.model.operator import Permission
from fleetcore.model.store import Event


class Subject(StrEnum):
    """What an event's ``subject`` names."""

    DEVICE = "device"
    COMMAND = "command"
    CAMPAIGN = "campaign"
    EXECUTION = "execution"
    FREEZE = "freeze"
    ANOMALY = "anomaly"
    GROUP = "group"
    LAYER = "layer"
    OPERATION = "operation"
    BATCH = "batch"
    MANUFACTURER = "manufacturer"
    CA = "ca"
    RELEASE = "release"
    TRUST = "trust root"
    TOKEN = "token"  # noqa: S105 - the kind of a thing
    PRINCIPAL = "principal"
    MIRROR = "mirror"
    OBJECT = "object"
    PLUGIN = "plugin's own"


#: The parts of a device's document that come from its record, and change together.
RECORD = frozenset(
    {"id", "name", "type", "model", "tags", "lifecycle", "capabilities", "gateway", "home", "attributes", "location",
     "updated", "created"}
)  # fmt: skip
#: All parts of a document.
DOCUMENT = RECORD | {
    "desired", "reported", "firmware", "power", "groups", "connectivity", "last_seen", "latest",
}  # fmt: skip

#: The value of :attr:`EventType.device` where the subject itself is the device.
SUBJECT = "subject"


@frozen(kw_only=True)
class Member:
    """One member of an event's data. ``kind`` is a type, or a union of types, as for ``isinstance``."""

    kind: type | UnionType
    optional: bool = False

    def __str__(self) -> str:
        words = " or ".join(dict.fromkeys(_JSON[kind] for kind in _kinds(self.kind)))
        return f"{words}, optional" if self.optional else words


_JSON: Mapping[type, str] = MappingProxyType(
    {str: "text", int: "integer", float: "number", bool: "boolean", dict: "object", list: "list", type(None): "null"}
)


@frozen(kw_only=True)
class EventType:
    """One kind of event.

    Attributes:
        permission: what a principal needs in order to see it; None means every permission, for the whole fleet.
        device: where to find the device that it is about: :data:`SUBJECT`, the name of a member of its data, or empty
            for the whole fleet. The permission is needed on that device, or for the whole fleet.
        audited: whether it becomes a row of the audit log.
        changes: the parts of the device's document that it may have changed.
        facet: the facet that a mirror sends to its hub again: of the device, or, for groups and jobs, of the subject.
        names: the member of its data that names the changes: a list of names, a patch, or one name.
        data: the members of its data.
        extra: whether its data may have more members than these.
        meaning: one sentence for people.
    """

    name: str
    subject: Subject
    permission: Permission | None
    meaning: str
    device: str = ""
    audited: bool = True
    changes: frozenset[str] = frozenset()
    facet: Facet | None = None
    names: str = ""
    data: Mapping[str, Member] = MappingProxyType({})
    extra: bool = False

    def device_of(self, event: Event) -> str | None:
        """The device that an event of this type is about, or None."""
        return self.device_in(event.subject, event.data)

    def device_in(self, subject: str, data: Mapping[str, object]) -> str | None:
        """The same, from an event's parts; an audit row has only the subject."""
        found = subject if self.device == SUBJECT else data.get(self.device) if self.device else None
        return found if isinstance(found, str) else None

    def mirrored(self, event: Event) -> EntityKey | None:
        """The entity whose copy at a cloud hub is now out of date, or None."""
        if self.facet is None:
            return None
        entity = self.device_of(event) if self.facet in OF_DEVICES else event.subject
        return None if entity is None else EntityKey(self.facet, entity)

    def faults(self, event: Event) -> Iterator[str]:
        """How an event's data differs from its declaration."""
        for name, member in self.data.items():
            if name not in event.data:
                if not member.optional:
                    yield f"{self.name} has no {name}"
            elif not _fits(event.data[name], member.kind):
                yield f"{self.name}: {name} is {type(event.data[name]).__name__}, not {member}"
        if not self.extra:
            yield from (f"{self.name} has {name}, which is not declared" for name in event.data.keys() - self.data)


def _kinds(kind: type | UnionType) -> tuple[type, ...]:
    return kind.__args__ if isinstance(kind, UnionType) else (kind,)


def _fits(value: object, kind: type | UnionType) -> bool:
    kinds = _kinds(kind)
    if isinstance(value, bool) and bool not in kinds:
        return False
    if isinstance(value, tuple) and list in kinds:
        return True  # both are a list in JSON
    if isinstance(value, int) and float in kinds:
        return True  # a number need not have a fraction
    return isinstance(value, kind) or (isinstance(value, Mapping) and dict in kinds)


_TEXT, _INTEGER = Member(kind=str), Member(kind=int)

# The event types that other parts of the fleet refer to by name.
ANOMALY_FOUND = "anomaly.found"
TWIN_REPORTED, TWIN_ACKNOWLEDGED = "twin.reported", "twin.acknowledged"
OFFER_PASSED, OFFER_ANSWERED = "execution.passed", "execution.answered"
DEVICE_ERASED = "device.erased"
GROUP_JOINED, GROUP_LEFT, GROUP_CHANGED = "group.joined", "group.left", "group.changed"
DEVICE_ERASED = "device.erased"
LAYER_CHANGED, LAYER_REMOVED = "layer.changed", "layer.removed"
ACCESS_DENIED = "access.denied"
FUNCTION_PUT_BACK, FUNCTION_REMOVED, GATEWAY_REPLACED = "edge.put_back", "edge.undeployed", "edge.replaced"
RETENTION_DROPPED, LEFT_BEHIND_DROPPED = "retention.dropped", "left_behind.dropped"


def _of_devices() -> Iterator[EventType]:
    def about(name: str, meaning: str, changes: frozenset[str], **more: object) -> EventType:
        return EventType(
            name=f"device.{name}", subject=Subject.DEVICE, device=SUBJECT, permission=Permission.DEVICES_READ,
            meaning=meaning, changes=changes, facet="registry", **more,  # type: ignore[arg-type]  # attrs checks names
        )  # fmt: skip

    yield about("registered", "A device was registered.", DOCUMENT)
    yield about(
        "changed", "Members of a device's record changed.", RECORD,
        names="members", data={"members": Member(kind=list)},
    )  # fmt: skip
    for state in Lifecycle:
        if state is not Lifecycle.REGISTERED:
            yield about(
                state, f"A device's lifecycle became {state}.", frozenset({"lifecycle", "updated"}),
                data={"from": _TEXT, "to": _TEXT},
            )  # fmt: skip
    # The device leaves its groups by separate events.
    yield about(
        DEVICE_ERASED.removeprefix("device."), "A device was erased with its readings and state.", DOCUMENT - {"groups"}
    )


def _of_twins() -> Iterator[EventType]:
    def about(name: str, meaning: str, *changes: str, **more: object) -> EventType:
        return EventType(
            name=f"twin.{name}", subject=Subject.DEVICE, device=SUBJECT, permission=Permission.DEVICES_READ,
            meaning=meaning, changes=frozenset(changes), facet="twin", **more,  # type: ignore[arg-type]  # see above
        )  # fmt: skip

    yield about(
        "desired", "The desired state of a device changed.", "desired",
        names="patch", data={"version": _INTEGER, "patch": Member(kind=dict)},
    )  # fmt: skip
    # Frequent reports of devices are telemetry, not decisions; their histories have them.
    yield about(
        "reported", "A device reported its state.", "reported", "firmware", "power",
        audited=False, data={"version": _INTEGER},
    )  # fmt: skip
    yield about(
        "acknowledged", "A device accepted or refused a version of its desired state.",
        audited=False, data={"version": _INTEGER, "refused": Member(kind=dict)},
    )  # fmt: skip
    yield about("refused", "The layers together exceed a limit of twins for a device, and were not applied.")


def _of_commands() -> Iterator[EventType]:
    for name in (*CommandState, "cancel_requested"):
        called = Member(kind=str, optional=True)  # events of earlier releases have none
        data = {"device": _TEXT, "name": called, **({"attempt": _INTEGER} if name == CommandState.SENT else {})}
        words = "was asked to be cancelled" if name == "cancel_requested" else f"became {name.replace('_', ' ')}"
        yield EventType(
            name=f"command.{name}", subject=Subject.COMMAND, device="device", permission=Permission.DEVICES_READ,
            meaning=f"A command {words}.", data=data,
        )  # fmt: skip


def _of_campaigns() -> Iterator[EventType]:
    made = {
        "release": Member(kind=str, optional=True),
        "targets": Member(kind=int, optional=True),
        "manifest_sha256": Member(kind=str | None, optional=True),
        "trust": Member(kind=int | None, optional=True),
        "allow_downgrade": Member(kind=bool, optional=True),
        "code": Member(kind=str, optional=True),
    }
    for campaign in CampaignState:
        yield EventType(
            name=f"campaign.{campaign}", subject=Subject.CAMPAIGN, permission=Permission.CAMPAIGNS_READ,
            meaning=f"A campaign became {campaign}.", data=made,
        )  # fmt: skip
    yield EventType(
        name="campaign.wave", subject=Subject.CAMPAIGN, permission=Permission.CAMPAIGNS_READ,
        meaning="A wave of a campaign began.", data={"wave": _INTEGER, "devices": Member(kind=int, optional=True)},
    )  # fmt: skip
    yield EventType(
        name="execution.placed", subject=Subject.EXECUTION, device="device", permission=Permission.CAMPAIGNS_READ,
        meaning="A device got a place in a wave of a campaign.",
        data={"campaign": _TEXT, "device": _TEXT, "wave": _INTEGER}, facet="job",
    )  # fmt: skip
    for name, meaning in (
        ("held", "A device may not begin or install yet; `code` says why."),
        ("consented", "A device's user agreed to an update."),
    ):
        yield EventType(
            name=f"execution.{name}", subject=Subject.EXECUTION, device="device", permission=Permission.CAMPAIGNS_READ,
            meaning=meaning, data={"campaign": _TEXT, "device": _TEXT, "code": Member(kind=str, optional=True)},
        )  # fmt: skip
    ends = {"begin": _INTEGER, "end": Member(kind=int | None), "where": _TEXT}
    for name, meaning, data in (
        ("added", "Devices are kept from installing for some time.", ends),
        ("removed", "Devices may install again.", {}),
    ):
        yield EventType(
            name=f"freeze.{name}", subject=Subject.FREEZE, permission=Permission.CAMPAIGNS_READ, meaning=meaning,
            data=data,
        )  # fmt: skip
    yield EventType(
        name=OFFER_PASSED, subject=Subject.DEVICE, device=SUBJECT, permission=Permission.CAMPAIGNS_READ, audited=False,
        meaning="A gateway passes the core's firmware offer, or its withdrawal, to a device.",
        data={"execution": _TEXT, "withdrawn": Member(kind=bool)},
    )  # fmt: skip
    yield EventType(
        name=OFFER_ANSWERED, subject=Subject.DEVICE, device=SUBJECT, permission=Permission.CAMPAIGNS_READ,
        audited=False, meaning="A device reports about an offer of the core to its gateway.",
        data={"execution": _TEXT, "status": Member(kind=dict)},
    )  # fmt: skip
    for state in ExecutionState:
        yield EventType(
            name=f"execution.{state}", subject=Subject.EXECUTION, device="device", permission=Permission.CAMPAIGNS_READ,
            meaning=f"A device's part of a campaign became {state.replace('_', ' ')}.",
            data={"campaign": _TEXT, "device": _TEXT, "code": Member(kind=str, optional=True)}, facet="job",
        )  # fmt: skip
    yield EventType(
        name="release.added", subject=Subject.RELEASE, permission=Permission.CAMPAIGNS_READ,
        meaning="Firmware was signed off.", data={"release": _TEXT, "manifest_sha256": _TEXT, "trust": _INTEGER},
    )  # fmt: skip
    yield EventType(
        name="delta.made", subject=Subject.RELEASE, permission=Permission.CAMPAIGNS_READ,
        meaning="A delta between two images was made.", data={"sha256": _TEXT, "size": _INTEGER, "full_size": _INTEGER},
    )  # fmt: skip
    yield EventType(
        name="trust.set", subject=Subject.TRUST, permission=Permission.CAMPAIGNS_READ,
        meaning="The firmware trust root has a new version.",
        data={"version": _INTEGER, "expires": _INTEGER, "keys": Member(kind=list)},
    )  # fmt: skip


def _of_the_edge() -> Iterator[EventType]:
    def about(name: str, meaning: str, **data: Member) -> EventType:
        return EventType(
            name=name, subject=Subject.DEVICE, device=SUBJECT, permission=Permission.DEVICES_READ, meaning=meaning,
            data=data,
        )  # fmt: skip

    yield about(
        FUNCTION_PUT_BACK, "A gateway's function was put back to what was there before an offer, or removed.",
        function=_TEXT, execution=_TEXT, version=Member(kind=str | None),
    )  # fmt: skip
    yield about(FUNCTION_REMOVED, "A function was removed from a gateway.", function=_TEXT)
    yield about(
        GATEWAY_REPLACED, "A gateway was replaced: another one has its leaves and functions.", by=_TEXT, leaves=_INTEGER
    )


def _of_operations() -> Iterator[EventType]:
    yield EventType(
        name="operation.started", subject=Subject.OPERATION, permission=Permission.DEVICES_READ,
        meaning="A long operation began: import, bulk command, renewal.", data={"kind": _TEXT, "total": _INTEGER},
    )  # fmt: skip
    done = {"done": Member(kind=int, optional=True), "failed": Member(kind=int, optional=True)}
    for state in OperationState:
        if state is not OperationState.RUNNING:
            yield EventType(
                name=f"operation.{state}", subject=Subject.OPERATION, permission=Permission.DEVICES_READ,
                meaning=f"A long operation ended: {state}.", data=done,
            )  # fmt: skip
    for name, meaning in (
        ("operation.paused", "A long operation starts no more items until it is resumed."),
        ("operation.resumed", "A long operation was resumed."),
    ):
        yield EventType(
            name=name, subject=Subject.OPERATION, permission=Permission.DEVICES_READ, meaning=meaning,
        )  # fmt: skip


def _of_groups() -> Iterator[EventType]:
    why = {"group": _TEXT, "why": _TEXT}
    for name, meaning in ((GROUP_JOINED, "A device joined a group."), (GROUP_LEFT, "A device left a group.")):
        yield EventType(
            name=name, subject=Subject.DEVICE, device=SUBJECT, permission=Permission.DEVICES_READ, meaning=meaning,
            changes=frozenset({"groups"}), facet="registry", names="group", data=why,
        )  # fmt: skip
    for name, meaning in (
        ("group.created", "A group was created."),
        (GROUP_CHANGED, "A group's query, description or place changed."),
        ("group.removed", "A group was deleted; its devices stay."),
    ):
        yield EventType(
            name=name, subject=Subject.GROUP, permission=Permission.GROUPS_READ, meaning=meaning, facet="group",
            data={"within": Member(kind=list, optional=True)} if name == GROUP_CHANGED else {},
        )  # fmt: skip
    yield EventType(
        name=LAYER_CHANGED, subject=Subject.LAYER, permission=Permission.DEVICES_READ, names="patch",
        meaning="A layer of desired state changed; its devices follow.",
        data={"patch": Member(kind=dict), "version": _INTEGER},
    )  # fmt: skip
    yield EventType(
        name=LAYER_REMOVED, subject=Subject.LAYER, permission=Permission.DEVICES_READ, names="group",
        meaning="A layer was deleted.", data={"group": Member(kind=str, optional=True)},
    )  # fmt: skip


def _of_readings() -> Iterator[EventType]:
    yield EventType(
        name="location.updated", subject=Subject.DEVICE, device=SUBJECT, permission=Permission.DEVICES_READ,
        meaning="A device has a newer position.", audited=False, changes=frozenset({"location"}), facet="registry",
        data={"lat": Member(kind=float), "lon": Member(kind=float), "time": Member(kind=int | None)},
    )  # fmt: skip
    yield EventType(
        name=ANOMALY_FOUND, subject=Subject.ANOMALY, device="device", permission=Permission.DEVICES_READ,
        meaning="A detector found an anomaly.", audited=False,
        data={"device": _TEXT, "metric": _TEXT, "severity": _TEXT},
    )  # fmt: skip
    yield EventType(
        name=RETENTION_DROPPED, subject=Subject.OBJECT, permission=Permission.SERVER_READ,
        meaning="Readings older than [retention] allows were dropped: all since the event before.",
        data={"readings": _INTEGER, "texts": _INTEGER, "size_bytes": _INTEGER},
    )  # fmt: skip
    yield EventType(
        name=LEFT_BEHIND_DROPPED, subject=Subject.OBJECT, permission=Permission.SERVER_READ,
        meaning="The feed position and the state of a component that is no longer configured were dropped.",
        data={"behind": _INTEGER},
    )  # fmt: skip
    for verb in ("replayed", "discarded"):
        yield EventType(
            name=f"dead_letter.{verb}", subject=Subject.DEVICE, device=SUBJECT, permission=Permission.QUARANTINE_READ,
            meaning=f"A refused message was {verb}.", data={"number": _INTEGER, "code": _TEXT},
        )  # fmt: skip


def _of_credentials() -> Iterator[EventType]:
    def about(name: str, meaning: str, *, facet: Facet | None = None, **data: Member) -> EventType:
        return EventType(
            name=name, subject=Subject.DEVICE, device=SUBJECT, permission=Permission.SECURITY_READ, meaning=meaning,
            data=data, facet=facet,
        )  # fmt: skip

    yield about(
        "certificate.issued", "A device has a new certificate.", facet="certificate",
        certificate=_TEXT, fingerprint=_TEXT, source=_TEXT,
    )  # fmt: skip
    for state in ("activated", "revoked", "superseded"):
        yield about(f"certificate.{state}", f"A certificate was {state}.", facet="certificate", certificate=_TEXT)
    yield about("token.issued", "A device has a new bearer token.", token=_TEXT)
    yield about("token.revoked", "A device's bearer token ended.", token=_TEXT)
    yield about("key.revoked", "The acceptance of a key ended before it got a certificate.", fingerprint=_TEXT)
    for state in ("pending", "accepted", "rejected"):
        yield about(f"enrollment.{state}", f"A key that asks to enrol as a device is {state}.", fingerprint=_TEXT)
    yield about("enrollment.refused", "An enrolment was refused.", detail=_TEXT)

    def wide(name: str, subject: Subject, meaning: str, **data: Member) -> EventType:
        return EventType(
            name=name, subject=subject, permission=Permission.SECURITY_READ, meaning=meaning, data=data
        )  # fmt: skip

    yield wide(
        "enrollment_token.created", Subject.TOKEN, "An enrolment token was made; the subject is its device or its id.",
        token=_TEXT, uses=_INTEGER, expires=_INTEGER,
    )  # fmt: skip
    yield wide(
        "enrollment_token.revoked", Subject.TOKEN, "An enrolment token ended; the subject is its device or its id.",
        token=Member(kind=str, optional=True),
    )  # fmt: skip
    yield wide("claim.created", Subject.BATCH, "A batch has a claim certificate.", quota=_INTEGER)
    yield wide("claim.disabled", Subject.BATCH, "A claim certificate was disabled.")
    yield wide("claim.quota_exceeded", Subject.BATCH, "A batch exceeded its number of devices.", quota=_INTEGER)
    for verb, meaning in (
        ("proposed", "A manufacturer's CA was added, and has to prove its key."),
        ("proven", "A manufacturer's CA is trusted."),
        ("disabled", "A manufacturer's CA is no longer trusted."),
    ):
        yield wide(f"manufacturer.{verb}", Subject.MANUFACTURER, meaning)
    bundle = {"bundle": _INTEGER, "sha256": _TEXT, "signing": _TEXT}
    for verb, meaning in (
        ("announced", "A new root CA is trusted; the old one still signs."),
        ("issuing", "The CA of the new root signs."),
        ("taken_back", "A step of a rotation was undone."),
        ("retired", "The old root CA is no longer trusted."),
        ("issuing_renewed", "A new issuing CA under the same root signs."),
        ("distrusted", "An issuing CA is no longer trusted."),
    ):
        yield wide(f"ca.{verb}", Subject.CA, meaning, **bundle)
    yield wide("ca.root_offline", Subject.CA, "A root's key was moved out of the data folder.", root=_TEXT)


#: The data of mirror events: the entity, where it is not all of them; the kind of budget; how many.
_OF_MIRRORS = (("entity", str), ("budget", str), ("count", int))


def _of_mirrors() -> Iterator[EventType]:
    for name, meaning in (
        ("mirror.paused", "A mirror sends no state until it is resumed."),
        ("mirror.resumed", "A mirror was resumed."),
        ("mirror.resynced", "A mirror checks every entity again."),
        ("mirror.removals_allowed", "A mirror may remove more entities from its hub today."),
        ("mirror.budget_spent", "A mirror has used its daily budget of readings or of removals."),
    ):
        yield EventType(
            name=name, subject=Subject.MIRROR, permission=Permission.SERVER_READ, meaning=meaning,
            data={name: Member(kind=kind, optional=True) for name, kind in _OF_MIRRORS},
        )  # fmt: skip


def _of_cutovers() -> Iterator[EventType]:
    side = Member(kind=str | None)
    for state, meaning in (
        (CutoverState.OFFERED, "A device was offered a cut-over to another side."),
        (CutoverState.CONFIRMED, "A device has moved to its new side."),
        (CutoverState.FELL_BACK, "A device has tried the new side and gone back."),
        (CutoverState.TIMED_OUT, "A device did not reach the new side in time."),
        (CutoverState.CANCELLED, "The offer of a cut-over was withdrawn."),
    ):
        yield EventType(
            name=f"cutover.{state}", subject=Subject.DEVICE, device=SUBJECT, permission=Permission.DEVICES_READ,
            meaning=meaning, data={"epoch": _INTEGER, "operation": _TEXT, "source": side, "target": side},
        )  # fmt: skip


def _of_operators() -> Iterator[EventType]:
    def about(name: str, subject: Subject, meaning: str, **data: Member) -> EventType:
        return EventType(name=name, subject=subject, permission=Permission.AUDIT_READ, meaning=meaning, data=data)

    yield about("operator_token.created", Subject.TOKEN, "A token of the operators' API was created.", principal=_TEXT)
    yield about("operator_token.revoked", Subject.TOKEN, "A token of the operators' API ended.", principal=_TEXT)
    role = {"grant": _TEXT, "role": _TEXT, "scope": _TEXT}
    yield about("role.granted", Subject.PRINCIPAL, "A principal was given a role.", **role)
    yield about("role.withdrawn", Subject.PRINCIPAL, "A principal lost a role.", **role)
    yield EventType(
        name=ACCESS_DENIED, subject=Subject.OBJECT, permission=Permission.AUDIT_READ, extra=True,
        meaning="The actor was denied an action on the subject.", data={"count": _INTEGER},
    )  # fmt: skip
    yield about("audit.gap", Subject.OBJECT, "Commits were trimmed before the audit log recorded them.")


#: Every type of the core, by name.
CORE: Mapping[str, EventType] = MappingProxyType(
    {
        event_type.name: event_type
        for family in (
            _of_devices, _of_twins, _of_readings, _of_commands, _of_groups, _of_campaigns, _of_the_edge, _of_operations,
            _of_credentials, _of_mirrors, _of_cutovers, _of_operators,
        )
        for event_type in family()
    }
)  # fmt: skip

_PLUGINS = re.compile(r"x\.(?P<plugin>[A-Za-z0-9_-]+)(\.[a-z0-9_]+)+", re.ASCII)


class EventTypes:
    """The event types of one fleet: the core's, and those of its plugins.

    Args:
        plugins: a plugin's name and its types, which are called ``x.NAME.*``. Raises Refused as
            :func:`check_plugin_type`.
    """

    def __init__(self, plugins: Mapping[str, Iterable[EventType]] = MappingProxyType({})) -> None:
        self._types = dict(CORE)
        for plugin, types in plugins.items():
            for declared in types:
                check_plugin_type(plugin, declared)
                self._types[declared.name] = declared

    def __iter__(self) -> Iterator[EventType]:
        return iter(self._types.values())

    def find(self, name: str) -> EventType | None:
        """The type of that name, or None where it is not declared."""
        return self._types.get(name)

    def is_audited(self, event: Event) -> bool:
        """Whether the audit log records it; it records every event of an undeclared type."""
        found = self._types.get(event.type)
        return found is None or found.audited


def check_plugin_type(plugin: str, declared: object) -> None:
    """Raises Refused for a declaration that plugins may not make."""
    if not isinstance(declared, EventType):
        raise Refused(f"fleetcore_events gave {type(declared).__name__}, not an EventType")
    found = _PLUGINS.fullmatch(declared.name)
    if found is None or found["plugin"] != plugin:
        raise Refused(
            f"The plugin {plugin!r} declares the event type {declared.name!r}",
            remedy=f"Call it x.{plugin}.WHAT, in lower case",
        )
    if declared.changes or declared.facet is not None:
        raise Refused(
            f"The event type {declared.name!r} claims to change a device", remedy="Only the core's own events say that"
        )


def changed_parts(event: Event) -> frozenset[str]:
    """The parts of the device's document that an event may have changed."""
    found = CORE.get(event.type)
    return frozenset() if found is None else found.changes


def device_of(event: Event) -> str | None:
    """The device that an event of the core is about, or None."""
    found = CORE.get(event.type)
    return None if found is None else found.device_of(event)
