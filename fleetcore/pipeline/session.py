"""A device's session, and what the data path keeps in memory of a device while it has an open session."""

from fleetcore.interfaces.protocol import CloseOnce, Session
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.telemetry import Quality

#: The protocol of sessions in which a program sends for devices in the owner's name.
OWNER = "library"
_BLOCKED = {Lifecycle.SUSPENDED: "device_suspended", Lifecycle.RETIRED: "device_retired"}


class DeviceState:
    """One device as the data path sees it; shared by its sessions, changed in place when the registry changes.

    Attributes:
        metrics: the device's interned series by metric.
        index_of: looks a metric up in it; bound once, because every reading uses it.
        blocked: the code with which all its messages are refused, or None.
        quality: the bits that its readings start with.
        fresh: no authenticated message has made it active yet.
        established: neither blocked nor fresh: its messages need no further check.
        tokens, refilled: its token bucket: what is left, and when that was computed (monotonic seconds).
    """

    __slots__ = (
        "__weakref__",
        "blocked",
        "device",
        "established",
        "fresh",
        "id",
        "index_of",
        "metrics",
        "quality",
        "refilled",
        "tokens",
    )

    def __init__(self, device: Device, tokens: float, now_s: float) -> None:
        self.metrics: dict[str, int] = {}
        self.index_of = self.metrics.__getitem__
        self.tokens, self.refilled = tokens, now_s
        self.update(device)

    def update(self, device: Device) -> None:
        """Takes over a changed record."""
        self.device = device
        self.id = device.id
        self.blocked = _BLOCKED.get(device.lifecycle)
        self.quality = int(Quality.QUARANTINED if device.lifecycle is Lifecycle.QUARANTINED else Quality.GOOD)
        self.fresh = device.lifecycle in (Lifecycle.REGISTERED, Lifecycle.PROVISIONED)
        self.established = self.blocked is None and not self.fresh

    def take_token(self, now_s: float, rate_per_s: float, burst: float) -> bool:
        """Spends one token of the bucket; False if it is empty."""
        if self.tokens < 1:
            self.tokens = min(burst, self.tokens + (now_s - self.refilled) * rate_per_s)
            self.refilled = now_s
            if self.tokens < 1:
                return False
        self.tokens -= 1
        return True


class DeviceSession(CloseOnce, Session):
    """The concrete session.

    Attributes:
        state: the state of the identity.
        asserted: another party, such as a broker, has checked a credential, and it is not known which.
        credential_key: the certificate that opened it; None for a token.
        credential_until: when the certificate or token ends, ms since the epoch, or None.
        lost_rights: the code with which everything still under way is refused, or None; closing alone does not set it.
        subjects: the identity and every leaf it has sent about, by id; others are looked up by
            :class:`~fleetcore.pipeline.admit.Directory`.
    """

    __slots__ = (
        "asserted",
        "credential_key",
        "credential_until",
        "lost_rights",
        "peer",
        "protocol",
        "state",
        "subjects",
    )

    def __init__(
        self,
        state: DeviceState,
        protocol: str,
        peer: str,
        credential_key: str | None = None,
        credential_until: int | None = None,
        *,
        asserted: bool = False,
    ) -> None:
        super().__init__()
        self.state, self.protocol, self.peer, self.credential_key = state, protocol, peer, credential_key
        self.credential_until, self.asserted = credential_until, asserted
        self.subjects: dict[str, DeviceState] = {state.device.id: state}
        self.lost_rights: str | None = None

    @property
    def identity(self) -> str:
        return self.state.device.id

    def end(self, code: str) -> None:
        if self._ended is None:
            self.lost_rights = code if code.startswith("device_") else None
            super().end(code)
