"""The table of message types: everything that devices send and receive, one row each.

A row holds the body's type with its bounds, an example, and how each protocol carries the message. Protocol plugins
read their own columns; access lists of brokers, the parameters of the protocol contract and ``docs/reference/wire.md``
come from this table. The bounds are checked before anything is stored (:mod:`fleetcore.wire.bodies`), so a handler gets
a valid body. Receivers ignore members that they do not know (wire.md §4).

To add a message type, write its body and its row here, and register its handler in its capability.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from fleetcore.model.days import DAY_MS
from fleetcore.model.message import Direction, MessageType
from fleetcore.wire.strict_json import EXACT_INTEGER
from fleetcore.wire.times import Ms

#: How far ahead the times of a device's sleep and wait may lie: a year (wire.md §5.3), a leap year's days.
AHEAD_S = 366 * 86_400
#: Text for people is cut to this length, never refused.
TEXT_CHARACTERS = 1024
#: A command's output (wire.md §5.6), as JSON.
OUTPUT_BYTES = 64 * 1024
_POSITIONS = 1000
_ALERTS = 100
#: Beyond it no score says more.
_LARGEST = 1e9
#: The characters of PEM.
ASCII = r"^[\t\n\r -~]*$"

# A bound is a limit where its type says so: a larger value is ``limit_exceeded``, with limit and unit. Other bounds are
# the range of valid values, such as a latitude's.
_PERCENT, _SECONDS, _MS, _BYTES, _VERSION = (
    {"unit": unit, "limit": True} for unit in ("percent", "seconds", "ms", "bytes", "version")
)

Json = dict[str, Any]
Percent = Annotated[float, Meta(ge=0, le=100, extra=_PERCENT)]


class Body(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base of all bodies. A member that is null is absent."""


class _ForPeople(Body, frozen=True, kw_only=True):
    """A body whose ``code`` and ``reason`` are stored for people: they are cut, whatever their length."""

    code: Annotated[str, Meta(description="A code of the device, for people.")] | None = None
    reason: Annotated[str, Meta(description="The reason, for people.")] | None = None

    def __post_init__(self) -> None:
        for name in ("code", "reason"):
            text = getattr(self, name)
            if text is not None and len(text) > TEXT_CHARACTERS:
                structs.force_setattr(self, name, text[:TEXT_CHARACTERS])


# --- from a device --------------------------------------------------------------------------------------------------


class Position(Body, frozen=True, kw_only=True):
    """A device's position, WGS 84."""

    lat: Annotated[float, Meta(ge=-90, le=90, extra={"unit": "degrees"})]
    lon: Annotated[float, Meta(ge=-180, le=180, extra={"unit": "degrees"})]
    accuracy_m: Annotated[float, Meta(ge=0, le=4e7, extra={"unit": "metres"})] | None = None
    alt_m: Annotated[float, Meta(ge=-12_000, le=1e8, extra={"unit": "metres"})] | None = None
    speed_mps: Annotated[float, Meta(ge=0, le=1e5, extra={"unit": "metres per second"})] | None = None
    heading: Annotated[float, Meta(ge=0, le=360, extra={"unit": "degrees"})] | None = None
    time: Annotated[Ms, Meta(description="The time of the position; the time of receipt if absent.")] | None = None
    source: Literal["gnss", "cell", "wifi", "manual"] | None = None


class Status(Body, frozen=True, kw_only=True):
    """A device's report about its connection. Use ``offline`` with the announced session as the will."""

    state: Literal["online", "sleeping", "offline"]
    session: Annotated[str, Meta(max_length=128, description="Identifies the connection, and its will.")] | None = None
    boot: Annotated[str, Meta(max_length=64, description="The reason of its start.")] | None = None
    listen_s: Annotated[float, Meta(ge=0, le=AHEAD_S, extra=_SECONDS)] | None = None
    for_s: Annotated[float, Meta(ge=0, le=AHEAD_S, extra=_SECONDS, description="How long it sleeps.")] | None = None
    until: Annotated[Ms, Meta(description="The end of its sleep, at most a year ahead.")] | None = None


class RefusedLeaf(_ForPeople, frozen=True, kw_only=True):
    """Why a device refuses a leaf of desired state."""


class TwinAck(Body, frozen=True, kw_only=True):
    """The version of desired state that a device has accepted, and the leaves that it refuses."""

    version: Annotated[
        int,
        Meta(
            ge=0,
            le=EXACT_INTEGER,
            extra=_VERSION,
            description="At most the newest desired version.",
        ),
    ]
    refused: (
        Annotated[
            dict[Annotated[str, Meta(pattern="^/")], RefusedLeaf | str],
            Meta(description="RFC 6901 pointers, within the limits of a section of the twin."),
        ]
        | None
    ) = None


class CommandResult(_ForPeople, frozen=True, kw_only=True):
    """The state of a command. The first end state wins."""

    status: Literal["accepted", "running", "succeeded", "failed", "rejected", "cancelled"]
    progress: Percent | None = None
    output: Annotated[Any, Meta(description="At most 64 KiB as JSON.")] = UNSET
    extend_ms: Annotated[int, Meta(ge=0, le=DAY_MS, extra=_MS, description="How much longer it may take.")] | None = (
        None
    )
    time: Ms | None = None


class FirmwareStatus(_ForPeople, frozen=True, kw_only=True):
    """The state of an update. States may be skipped, and never go back within an attempt."""

    state: Literal[
        "accepted", "deferred", "downloading", "downloaded", "installing", "rebooting",
        "succeeded", "failed", "rejected", "cancelled", "reverted",
    ]  # fmt: skip
    execution: Annotated[str, Meta(max_length=256, description="Of the offer.")] = ""
    campaign: Annotated[str, Meta(max_length=128)] | None = None
    progress: Percent | None = None
    bytes: Annotated[int, Meta(ge=0, le=EXACT_INTEGER, extra=_BYTES)] | None = None
    until: Annotated[Ms, Meta(description="Needed by `deferred`, at most a year ahead.")] | None = None
    version: Annotated[str, Meta(max_length=128, description="What runs; `succeeded` requires the offer's.")] | None = (
        None
    )


class Alert(Body, frozen=True, kw_only=True):
    """Something abnormal that a device or its gateway found. Its subject, metric, time and ``detector`` identify it."""

    detector: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            pattern=r"^[A-Za-z0-9_-]+$",
            description="What found it. The fleet's own detector of that name finds it no second time.",
        ),
    ]
    metric: Annotated[str, Meta(min_length=1, max_length=128)]
    time: Annotated[Ms, Meta(description="Of the reading; of a missing one, when it was due.")]
    value: Annotated[float, Meta(description="Absent for a missing reading.")] | None = None
    expected: float | None = None
    score: (
        Annotated[float, Meta(ge=0, le=_LARGEST, description="How far from normal; 1, the default, is the limit.")]
        | None
    ) = None
    severity: Annotated[Literal["info", "warning", "critical"], Meta(description="`warning` if absent.")] | None = None
    text: Annotated[str, Meta(description="The explanation, for people.")] | None = None

    def __post_init__(self) -> None:
        if self.text is not None and len(self.text) > TEXT_CHARACTERS:
            structs.force_setattr(self, "text", self.text[:TEXT_CHARACTERS])


class TimeRequest(Body, frozen=True, kw_only=True):
    """A request for the time."""

    client: Annotated[int, Meta(ge=-EXACT_INTEGER, le=EXACT_INTEGER, extra=_MS, description="Sent back.")] | None = None


class Nothing(Body, frozen=True, kw_only=True):
    """No members."""


class EnrollBody(Body, frozen=True, kw_only=True):
    """A request for a certificate: ``csr``, or in the second step of a claim ``ownership_token``."""

    csr: Annotated[str, Meta(max_length=16_384, pattern=ASCII, description="PKCS #10, PEM.")] | None = None
    token: Annotated[str, Meta(max_length=512, description="An enrolment token; never over MQTT.")] | None = None
    ownership_token: Annotated[str, Meta(max_length=512, description="From the first step of a claim.")] | None = None
    parameters: Annotated[Json, Meta(description="What the device says about itself.")] | None = None

    def __post_init__(self) -> None:
        if not (self.csr or self.ownership_token):
            raise ValueError("csr is needed, the PEM text of a certificate request, or ownership_token")


class RenewBody(Body, frozen=True, kw_only=True):
    """A request for the next certificate."""

    csr: Annotated[str, Meta(max_length=16_384, pattern=ASCII, description="PKCS #10, PEM.")]


class LeafBody(Body, frozen=True, kw_only=True):
    """A gateway's announcement of a leaf."""

    device: Annotated[str, Meta(max_length=64, description="The leaf's id.")]
    type: Annotated[str, Meta(max_length=128, description="`leaf` if absent.")] | None = None


class LeafListBody(Body, frozen=True, kw_only=True):
    """A gateway's question for its leaves."""

    after: Annotated[str, Meta(max_length=64, description="The last id of the page before.")] | None = None


# --- to a device ----------------------------------------------------------------------------------------------------


class DesiredChange(Body, frozen=True, kw_only=True, omit_defaults=False):
    """A merge patch from version ``since`` of desired state to ``version``; ``since`` 0 replaces the document."""

    version: Annotated[int, Meta(ge=0)]
    since: Annotated[int, Meta(ge=0)]
    patch: Json
    time: str | UnsetType = UNSET


class Command(Body, frozen=True, kw_only=True):
    """A command. ``delivered`` means that the device posted any result for it."""

    id: str
    name: str
    args: Json
    sequence: int
    lane: str
    respond: Literal["result", "ack", "none"]
    issued_at: str
    expires_at: Annotated[str, Meta(description="The device must not start it after this time.")]
    expires_in_ms: int
    result_by: str
    attempt: int
    supersedes: Annotated[tuple[str, ...], Meta(description="The commands that it replaces.")] = ()
    cancel: Annotated[bool, Meta(description="Whether its cancellation is requested.")] = False
    signed: Annotated[Json, Meta(description="A DSSE envelope; a verifying device uses only its payload.")] | None = (
        None
    )


class CommandCancel(Body, frozen=True, kw_only=True):
    """A request to cancel a command."""

    id: str


class Commands(Body, frozen=True, kw_only=True, omit_defaults=False):
    """The oldest unfinished commands, in order of ``sequence``; reading removes nothing."""

    commands: tuple[Command, ...]
    more: Annotated[bool, Meta(description="Whether there are more than these.")]


class FirmwareDelta(Body, frozen=True, kw_only=True, rename={"base": "from"}):
    """What turns the image that a device runs into the offered one."""

    base: Annotated[str, Meta(description="SHA-256 of the running image; another one needs the whole image.")]
    format: Annotated[Literal["bsdiff4"], Meta(description="BSDIFF40, whose three blocks are compressed by bzip2.")]
    sha256: str
    size: int
    path: str


class FirmwareOffer(Body, frozen=True, kw_only=True):
    """An update for a device."""

    execution: str
    campaign: str
    attempt: int
    version: str
    component: str
    size: int
    sha256: str
    install: Literal["now", "wait"]
    not_before: Annotated[str, Meta(description="With `wait`: when it is judged again.")] | None = None
    deadline: Annotated[str, Meta(description="After it do not begin to install.")] | None = None
    defer_until: Annotated[str, Meta(description="The latest `until` with which it may be deferred.")] | None = None
    url: Annotated[str, Meta(description="May be another server's: send no credentials to it.")] | None = None
    path: Annotated[str, Meta(description="The path on the server that the device talks to.")] | None = None
    deltas: Annotated[
        tuple[FirmwareDelta, ...], Meta(description="By the reported `firmware.sha256`, where there is one.")
    ] = ()
    manifest: Annotated[Json, Meta(description="DSSE.")] | None = None
    assignment: Annotated[Json, Meta(description="DSSE.")] | None = None
    trust: Annotated[tuple[Json, ...], Meta(description="The versions of the trust root to follow, DSSE.")] = ()


class Firmware(Body, frozen=True, kw_only=True, omit_defaults=False):
    """The offer, or null without one; ``cancel`` names an execution whose offer is withdrawn."""

    offer: FirmwareOffer | None
    cancel: str | UnsetType = UNSET


class TwinDocument(Body, frozen=True, kw_only=True, omit_defaults=False):
    """A device's twin."""

    desired: Json
    desired_version: int
    reported: Json
    reported_version: int
    delta: Annotated[Json, Meta(description="The desired leaves that the reported section does not match.")]
    time: str


class TimeAnswer(Body, frozen=True, kw_only=True, omit_defaults=False):
    """The server's clock when it received the request and when it answered."""

    client: int | None
    received: str
    sent: str
    received_ms: int
    sent_ms: int


class InboxAnswer(Body, frozen=True, kw_only=True):
    """Everything that is pending; a member is absent if nothing is."""

    desired: DesiredChange | UnsetType = UNSET
    commands: Commands | UnsetType = UNSET
    firmware: Firmware | UnsetType = UNSET


class CaAnswer(Body, frozen=True, kw_only=True):
    """The CA certificates to trust."""

    ca: str


class Certificate(Body, frozen=True, kw_only=True):
    """The certificate, with its chain; in the first step of a claim ``ownership_token`` instead."""

    device: str | UnsetType = UNSET
    certificate: str | UnsetType = UNSET
    chain: str | UnsetType = UNSET
    ca: str | UnsetType = UNSET
    not_after: str | UnsetType = UNSET
    renew_after: str | UnsetType = UNSET
    endpoints: tuple[str, ...] | UnsetType = UNSET
    state: str | UnsetType = UNSET
    ownership_token: str | UnsetType = UNSET
    expires_in_s: float | UnsetType = UNSET
    retry_after_s: float | UnsetType = UNSET


class LeafAnswer(Body, frozen=True, kw_only=True, omit_defaults=False):
    """The registered leaf."""

    device: str
    gateway: str | None


class Leaf(Body, frozen=True, kw_only=True):
    """A leaf as it is registered."""

    device: str
    type: str
    lifecycle: str
    model: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    tags: tuple[str, ...] = ()


class LeafListAnswer(Body, frozen=True, kw_only=True, omit_defaults=False):
    """A gateway's leaves, by id; ``more`` says that there are others after the last one."""

    leaves: tuple[Leaf, ...]
    more: bool


class Problem(Body, frozen=True, kw_only=True):
    """Why a message was refused; over HTTP the same as problem+json (RFC 9457)."""

    code: Annotated[str, Meta(description="A code of the registry of errors.")]
    title: str
    status: int
    type: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    topic: Annotated[str, Meta(description="The topic of the message, over MQTT.")] | UnsetType = UNSET
    packet_id: int | UnsetType | None = UNSET
    id: Annotated[str, Meta(description="The id of the message.")] | UnsetType | None = UNSET
    received: str | UnsetType = UNSET
    errors: Annotated[tuple[Json, ...], Meta(description="`pointer` and `code` of each fault.")] | UnsetType = UNSET
    limit: float | UnsetType = UNSET
    unit: str | UnsetType = UNSET
    scope: str | UnsetType = UNSET
    stored: Annotated[int, Meta(description="The number of accepted readings.")] | UnsetType = UNSET
    rejected: (
        Annotated[tuple[Json, ...], Meta(description="`index`, `metric`, `code` and `detail` of each reading.")]
        | UnsetType
    ) = UNSET
    version: int | UnsetType = UNSET
    retry_after_s: float | UnsetType = UNSET


_COMMAND = {
    "id": "0197a2c4-9f0e-7c3a-8a51-5d1f0e6b2c11", "name": "reboot", "args": {}, "sequence": 7, "lane": "default",
    "respond": "result", "issued_at": "2026-01-31T12:00:00.000Z", "expires_at": "2026-01-31T12:05:00.000Z",
    "expires_in_ms": 300_000, "result_by": "2026-01-31T12:06:00.000Z", "attempt": 1,
}  # fmt: skip
_OFFER = {
    "execution": "0197a2c5-0b7d-7e52-9d5f-2f1f6c0f9a01", "campaign": "spring", "attempt": 1, "version": "2.0.0",
    "component": "main", "size": 524_288, "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "install": "now",
    "path": "/device/v1/artifacts/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}  # fmt: skip
_DESIRED = {"version": 12, "since": 11, "patch": {"interval": 60}, "time": "2026-01-31T12:00:00.000Z"}
_CSR = "-----BEGIN CERTIFICATE REQUEST-----\nMIH1...\n-----END CERTIFICATE REQUEST-----\n"
_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIC...\n-----END CERTIFICATE-----\n"
_GET = ("GET", "HEAD")

TELEMETRY = MessageType(
    name="telemetry", title="send readings", direction=Direction.UP,
    example={"time": 1_769_860_800_000, "values": {"temperature": 21.5, "door_open": False}},
    mqtt=("telemetry", "telemetry/senml"), methods=("POST",), path="telemetry", coap_method="POST", coap_alias="/d/t",
    statuses="204; 200 some refused; 422 all refused",
    note="Codecs read it: JSON, CBOR and SenML in the forms of wire.md §3.",
)  # fmt: skip
EVENTS = MessageType(
    name="event", title="tell alerts", direction=Direction.UP, body=Alert, many=_ALERTS,
    example={"detector": "overheated", "metric": "temperature", "time": 1_769_860_800_000, "value": 91.5,
             "severity": "critical", "text": "91.5 is above 90"},
    mqtt=("events",), methods=("POST",), path="events", coap_method="POST", coap_alias="/d/e",
    statuses="204; 200 some refused; 422 all refused",
    note="An alert that is known already changes nothing.",
)  # fmt: skip
LOGS = MessageType(
    name="logs", title="send logs", direction=Direction.UP, mqtt=("logs",), methods=("POST",), path="logs",
    later=frozenset({"mqtt", "http"}),
)  # fmt: skip
LOCATION = MessageType(
    name="location", title="send a position", direction=Direction.UP, body=Position, many=_POSITIONS,
    example={"lat": 37.7749, "lon": -122.4194, "accuracy_m": 5.0, "source": "gnss"},
    mqtt=("location",), methods=("POST", "PUT"), path="location", coap_method="POST, PUT", coap_alias="/d/l",
    statuses="204; 200 some refused; 422 all refused",
)  # fmt: skip
STATUS = MessageType(
    name="status", title="status, will, sleep", direction=Direction.UP, body=Status,
    example={"state": "online", "session": "k9", "boot": "power_on"},
    mqtt=("status",), methods=("POST",), path="status", coap_method="POST", coap_alias="/d/s", statuses="204",
    note="`online` makes the server send everything that is pending. `sleeping` requires `for_s` or `until`. A will "
         "whose session is not the latest announced is ignored.",
)  # fmt: skip
TWIN_REPORT = MessageType(
    name="twin.report", title="report twin state", direction=Direction.UP, body=Json,
    example={"interval": 60, "firmware": {"version": "2.0.0"}},
    checks_version=True, media_types=("application/merge-patch+json", "application/json", "application/cbor"),
    mqtt=("twin/reported",), methods=("PATCH",), path="twin/reported",
    coap_method="iPATCH, POST", coap_alias="/d/r", statuses="204 with an ETag; 412",
    note="A merge patch (RFC 7396).",
)  # fmt: skip
TWIN_GET = MessageType(
    name="twin.get", title="read the device's own twin", direction=Direction.CALL, body=Nothing, example={},
    answer=TwinDocument,
    answer_example={
        "desired": {"interval": 60}, "desired_version": 12, "reported": {"interval": 30}, "reported_version": 40,
        "delta": {"interval": 60}, "time": "2026-01-31T12:00:00.000Z",
    },
    mqtt=("twin/get",), mqtt_down="twin", methods=_GET, path="twin", coap_method="GET", coap_alias="/d/w",
    statuses="200 with an ETag; 304",
)  # fmt: skip
TWIN_DESIRED = MessageType(
    name="twin.desired", title="desired state changed", direction=Direction.DOWN, body=DesiredChange, example=_DESIRED,
    waits="desired", mqtt_down="twin/desired", methods=_GET, path="twin/desired", coap_method="GET + Observe",
    coap_alias="/d/d", statuses="200; 204",
    note="`?since=V&wait=S` waits up to 55 s for a version newer than V. After a gap read the twin.",
)  # fmt: skip
TWIN_ACK = MessageType(
    name="twin.ack", title="acknowledge or refuse desired state", direction=Direction.UP, body=TwinAck,
    example={"version": 12, "refused": {"/interval": {"code": "out_of_range", "reason": "min 10"}}},
    mqtt=("twin/ack",), methods=("POST",), path="twin/ack", coap_method="POST", statuses="204",
)  # fmt: skip
COMMAND = MessageType(
    name="command", title="receive a command", direction=Direction.DOWN, body=Command, example=_COMMAND,
    answer=Commands, answer_example={"commands": [_COMMAND], "more": False},
    waits="commands", mqtt_down="commands", methods=_GET, path="commands", coap_method="GET + Observe",
    coap_alias="/d/c", statuses="200 a list; 204",
    note="`?wait=S` waits up to 55 s. A command not accepted within 30 s is sent again with the same id.",
)  # fmt: skip
COMMAND_CANCEL = MessageType(
    name="command.cancel", title="cancel a command", direction=Direction.DOWN, body=CommandCancel,
    example={"id": _COMMAND["id"]}, mqtt_down="commands/{target}/cancel",
    note='Over HTTP and CoAP `"cancel": true` in the list of commands.',
)  # fmt: skip
COMMAND_RESULT = MessageType(
    name="command.result", title="answer a command", direction=Direction.UP, body=CommandResult,
    example={"status": "succeeded", "output": {"uptime_s": 4}},
    mqtt=("commands/{target}/result",), methods=("POST",), path="commands/{target}/result",
    coap_method="POST", coap_alias="/d/c/{sequence}", statuses="204; 200 late; 404; 409",
)  # fmt: skip
FIRMWARE = MessageType(
    name="firmware", title="receive a firmware offer or its withdrawal", direction=Direction.DOWN, body=Firmware,
    example={"offer": _OFFER}, waits="firmware", mqtt_down="firmware", methods=_GET, path="firmware",
    coap_method="GET + Observe", coap_alias="/d/f", statuses="200; 204",
    note='`?wait=S` waits up to 55 s. Withdrawn: `{"offer": null, "cancel": "<execution>"}`.',
)  # fmt: skip
FIRMWARE_STATUS = MessageType(
    name="firmware.status", title="report firmware progress", direction=Direction.UP, body=FirmwareStatus,
    example={"execution": _OFFER["execution"], "state": "downloading", "progress": 40.0},
    mqtt=("firmware/status",), methods=("POST",), path="firmware/status", coap_method="POST",
    statuses="204; 404; 409",
)  # fmt: skip
ARTIFACT = MessageType(
    name="artifact", title="download an artifact", direction=Direction.CALL, mqtt=("artifacts/+/+/+",),
    mqtt_down="artifacts/+/+", methods=_GET, path="artifacts/{target}", coap_method="GET",
    statuses="200; 206; 304; 404; 416", note="Bytes, with Range over HTTP. Over MQTT it is reserved.",
    later=frozenset({"mqtt"}),
)  # fmt: skip
TIME = MessageType(
    name="time", title="read the server's clock", direction=Direction.CALL, body=TimeRequest,
    example={"client": 1_769_860_800_000}, answer=TimeAnswer,
    answer_example={
        "client": 1_769_860_800_000, "received": "2026-01-31T12:00:00.010Z", "sent": "2026-01-31T12:00:00.010Z",
        "received_ms": 1_769_860_800_010, "sent_ms": 1_769_860_800_010,
    },
    mqtt=("time/get",), mqtt_down="time", methods=_GET, path="time", coap_method="GET", coap_alias="/d/i",
    statuses="200; 503", note="Over HTTP `?client=ms`. A server that does not know the time refuses for now.",
)  # fmt: skip
INBOX = MessageType(
    name="inbox", title="everything pending", direction=Direction.CALL, body=Nothing, example={}, answer=InboxAnswer,
    answer_example={"desired": _DESIRED, "commands": {"commands": [_COMMAND], "more": False}},
    waits="inbox", methods=_GET, path="inbox", coap_method="GET", statuses="200; 204",
    note="`?wait=S&since=V`. Over MQTT a `status` of `online` requests it.",
)  # fmt: skip
ENROLL = MessageType(
    name="enroll", title="enrol", direction=Direction.CALL, body=EnrollBody,
    example={"csr": _CSR, "token": "fc_enr_…", "parameters": {"serial": "S1"}}, answer=Certificate,
    answer_example={"device": "sensor-001", "certificate": _CERTIFICATE, "not_after": "2027-01-31T12:00:00.000Z"},
    leaf=False, public=True, methods=("POST",), path="enroll", coap_method="POST",
    statuses="201; 202 pending; 401; 403; 409; 422; 429", note="Over HTTP also `application/pkcs10`.",
)  # fmt: skip
CERTIFICATE_RENEW = MessageType(
    name="certificate.renew", title="renew the certificate", direction=Direction.CALL, body=RenewBody,
    example={"csr": _CSR}, answer=Certificate,
    answer_example={"device": "sensor-001", "certificate": _CERTIFICATE, "not_after": "2027-01-31T12:00:00.000Z"},
    methods=("POST",), path="certificates/renew", coap_method="POST", statuses="201; 403; 422",
    note="Over HTTP also `application/pkcs10`, and EST.",
)  # fmt: skip
CA_GET = MessageType(
    name="ca.get", title="read the CA bundle", direction=Direction.CALL, body=Nothing, example={}, answer=CaAnswer,
    answer_example={"ca": _CERTIFICATE}, leaf=False, public=True, methods=_GET, path="ca", coap_method="GET",
    statuses="200",
)  # fmt: skip
LEAF_REGISTER = MessageType(
    name="leaf.register", title="register a leaf", direction=Direction.CALL, body=LeafBody,
    example={"device": "valve-7", "type": "valve"}, answer=LeafAnswer,
    answer_example={"device": "valve-7", "gateway": "gateway-1"}, leaf=False, methods=("POST",), path="leaf",
    coap_method="POST", statuses="201; 403; 409",
)  # fmt: skip
LEAF_LIST = MessageType(
    name="leaf.list", title="list a gateway's leaves", direction=Direction.CALL, body=LeafListBody, example={},
    answer=LeafListAnswer,
    answer_example={"leaves": [{"device": "valve-7", "type": "valve", "lifecycle": "active", "tags": []}],
                    "more": False},
    leaf=False, methods=("POST",), path="leaves", coap_method="POST", statuses="200; 403",
)  # fmt: skip
ERRORS = MessageType(
    name="errors", title="refused, with the reason", direction=Direction.DOWN, body=Problem,
    example={
        "code": "schema_invalid", "title": "The content does not follow the schema", "status": 422,
        "topic": "fleet/v1/sensor-001/status", "errors": [{"pointer": "/state", "code": "schema_invalid"}],
    },
    mqtt_down="errors", note="Over HTTP the answer itself, problem+json.",
)  # fmt: skip

#: Every row, in the order of the documentation.
ALL = tuple(row for row in tuple(globals().values()) if isinstance(row, MessageType))
#: By name.
NAMED: Mapping[str, MessageType] = MappingProxyType({row.name: row for row in ALL})
