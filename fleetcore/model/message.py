"""A message between a device and the fleet: what it is about, who sent it, and how it ended.

Adapters translate their protocol to :class:`Inbound` and from :class:`Downlink`; the rows of WIRE.md §1 are the
members of :class:`Operation`.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cache

from attrs import field, frozen
from msgspec import Struct

from fleetcore.errors import CODES


class Operation(StrEnum):
    """One row of the wire table; the value is its name as a WebSocket or request/reply ``op``."""

    TELEMETRY = "telemetry"
    LOCATION = "location"
    STATUS = "status"
    TWIN_REPORT = "twin.report"
    TWIN_GET = "twin.get"
    TWIN_DESIRED = "twin.desired"
    TWIN_ACK = "twin.ack"
    COMMAND = "command"
    COMMAND_CANCEL = "command.cancel"
    COMMAND_RESULT = "command.result"
    FIRMWARE = "firmware"
    FIRMWARE_STATUS = "firmware.status"
    TIME = "time"
    INBOX = "inbox"
    ENROLL = "enroll"
    CERTIFICATE_RENEW = "certificate.renew"
    CA_GET = "ca.get"
    LEAF_REGISTER = "leaf.register"
    ERRORS = "errors"


class Inbound(Struct, frozen=True, kw_only=True, gc=False):
    """One message from a device, as bytes and as the adapter understood its addressing.

    The one record made for every message: a Struct, whose making costs a fifth of an attrs record's, and which the
    garbage collector need not look at.

    Attributes:
        operation: what it is.
        subject: the device it is about: the identity itself or one of its leaves.
        payload: the body's bytes, never longer than the message limit.
        content_type: the declared media type without parameters, or None: then the codec looks at the bytes.
        id: the message id where the protocol carries one beside the payload (``Idempotency-Key``, ``?id=``).
        target: the id in the address: the command of a ``command.result``.
        if_version: compare-and-set on the reported section.
    """

    operation: Operation
    subject: str
    payload: bytes
    content_type: str | None = None
    id: str | None = None
    target: str | None = None
    if_version: int | None = None


@frozen
class PointRefusal:
    """Why one reading of a message was refused; ``index`` is its place in the message's list of readings."""

    index: int
    metric: str
    code: str


@frozen(kw_only=True)
class Accepted:
    """The message is committed.

    Attributes:
        stored: readings that are in the store now, those among them that were there before included.
        refused: the readings that were not taken, with reasons.
        version: the new version of the reported section, for a twin report.
        late: the message came after its time and is recorded as such.
    """

    stored: int = 0
    refused: tuple[PointRefusal, ...] = ()
    version: int | None = None
    late: bool = False


@frozen(kw_only=True)
class Dropped:
    """The message is understood and deliberately without effect, an outdated will for one."""

    reason: str


@frozen(kw_only=True)
class Rejected:
    """The message is refused; ``code`` is a key of ``fleetcore.errors.CODES``.

    Attributes:
        pointer: JSON pointer to the offending place, or empty.
        limit, unit, scope: which limit was hit, in what unit, for whom; set for limits.
        refused: per reading, where every reading was refused.
        version: the current version, for a version conflict.
        retry_after_s: when to try again, for temporary refusals.
    """

    code: str
    reason: str
    pointer: str = ""
    limit: int | None = None
    unit: str | None = None
    scope: str | None = None
    refused: tuple[PointRefusal, ...] = ()
    version: int | None = None
    retry_after_s: float | None = None

    @property
    def temporary(self) -> bool:
        """Whether the same message may succeed later. Such a message is not acknowledged on MQTT."""
        return CODES[self.code].temporary


Outcome = Accepted | Dropped | Rejected


@cache
def accepted(stored: int) -> Accepted:
    """The commonest outcome, made once per count."""
    return Accepted(stored=stored)


def is_permanent(outcome: Outcome) -> bool:
    """Whether the sender must not send the message again."""
    return not (isinstance(outcome, Rejected) and outcome.temporary)


@frozen(kw_only=True)
class Downlink:
    """One message to a device.

    Attributes:
        body: a JSON object, ready for the wire.
        target: the command's id, for ``command.cancel``.
        expires_ms: milliseconds after which delivering it makes no sense any more, or None.
        gateway: the subject's gateway as it is registered, or None: whom a leaf is reached through.
    """

    operation: Operation
    subject: str
    body: Mapping[str, object] = field(factory=dict)
    target: str | None = None
    expires_ms: int | None = None
    gateway: str | None = None


@frozen(kw_only=True)
class Reply:
    """The answer to a call: a status as HTTP speaks it, a JSON body, and the twin versions where it is about a twin.

    Attributes:
        error: the problem (RFC 9457 members) where it is one; the body is empty then.
    """

    status: int = 200
    body: Mapping[str, object] | None = None
    etag: str | None = None
    version: int | None = None
    error: Mapping[str, object] | None = None
