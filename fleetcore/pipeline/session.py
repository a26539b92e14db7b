"""A device's session, and what the data path remembers of a device while some session of it is open."""

from fleetcore.interfaces.protocol import CloseOnce, Session
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.telemetry import Quality

#: The protocol of sessions through which a program speaks for devices in the owner's name.
OWNER = "library"
_BLOCKED = {Lifecycle.SUSPENDED: "device_suspended", Lifecycle.RETIRED: "device_retired"}


class DeviceState:
    """One device as the data path sees it; shared by its sessions, changed in place when the registry changes.

    Attributes:
        metrics: the device's interned series by metric.
        index_of: looks a metric up in it; bound once, since it is asked for every reading.
        blocked: the code with which everything of it is refused, or None.
        quality: the bits that its readings start with.
        fresh: no authenticated message has made it active yet.
        established: it is neither blocked nor fresh: its messages need no second look.
        tokens, refilled: its token bucket: what is left, and when (monotonic seconds) that was true.
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
        """Takes a changed record over."""
        self.device = device
        self.id = device.id
        self.blocked = _BLOCKED.get(device.lifecycle)
        self.quality = int(Quality.QUARANTINED if device.lifecycle is Lifecycle.QUARANTINED else Quality.GOOD)
        self.fresh = device.lifecycle in (Lifecycle.REGISTERED, Lifecycle.PROVISIONED)
        self.established = self.blocked is None and not self.fresh

    def take_token(self, now_s: float, rate_per_s: float, burst: float) -> bool:
        """Spends one token of the bucket; False where it is empty."""
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
        state: of the identity.
        asserted: another party, such as a broker, has checked the credential, and which one it was is not known.
        credential_key: the certificate that opened it; None for a token.
        credential_until: when the certificate or token ends, ms since the epoch, or None.
        lost_rights: the code with which everything still under way is refused, or None; a mere close is no such.
        subjects: of the identity and of every leaf it has spoken for, by id; a miss is resolved by the directory.
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
