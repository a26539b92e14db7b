"""Secrets that are told once: device tokens, for who cannot show a certificate, and enrolment tokens, to get one.

256 random bits each; the store has their SHA-256 alone. That is enough: 256 bits cannot be guessed, and a slow password
hash on every request would be a way to keep the server busy. The prefix lets secret scanners know them.
"""

import hmac
import ipaddress
import re
import secrets
from collections.abc import AsyncIterator, Sequence

from attrs import evolve, field, frozen

from fleetcore.errors import NotAuthenticated, NotAuthorised, Refused
from fleetcore.fleet.lru_cache import LruCache
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.security.issuing import StaticGroups
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.addresses import host_of, within
from fleetcore.model.credential import DEVICE_TOKEN, ENROLLMENT_TOKEN
from fleetcore.model.names import check_device_id, check_label
from fleetcore.model.store import Commit, Delete, Event
from fleetcore.wire.shared_keys import digest_of, is_token_id, token_id

_SECRET_BYTES = 32  # 43 characters of base64url
_DEVICE_TOKEN = re.compile(DEVICE_TOKEN + r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})_([A-Za-z0-9_-]{43})", re.ASCII)
_ENROLLMENT_TOKEN = re.compile(ENROLLMENT_TOKEN + r"([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)

#: Device tokens whose record is kept in memory.
_REMEMBERED = 100_000

_MAX_TTL_S = 366 * 86_400
_MAX_USES = 1_000_000
_MAX_NETWORKS = 100


@frozen(kw_only=True)
class DeviceToken:
    """A device token as it is stored; ``id`` is ``<device>:<start of the hash>``, times are ms since the epoch."""

    id: str
    device: str
    sha256: str = field(repr=False)
    created: int
    expires: int | None = None
    version: int = 0


@frozen(kw_only=True)
class EnrollmentToken:
    """An enrolment token as it is stored; times are ms since the epoch.

    Attributes:
        left: how many more devices may enrol with it.
        device: the one device it is for, or None: then it enrols new devices only, of the type ``device_type``.
        groups: static groups that the new devices are put into.
        networks: the networks (CIDR) that it is good from; empty: from anywhere.
    """

    id: str
    sha256: str = field(repr=False)
    uses: int
    left: int
    expires: int
    created: int
    created_by: str
    device: str | None = None
    device_type: str = "device"
    groups: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    revoked: bool = False
    version: int = 0


@frozen(kw_only=True)
class TokenUse:
    """That a key enrolled with a token: a device whose answer was lost asks again and is not charged again.

    ``id`` is ``<token>:<spki>``.
    """

    id: str
    device: str
    certificate: str
    version: int = 0


class DeviceTokens:
    """Issues, checks and revokes device tokens ``fc_dev_<device>_<43 characters>``."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self.records = Repository(storage, "device_token", DeviceToken, refs=lambda token: [("device", token.device)])
        self._known: LruCache[DeviceToken] = LruCache(_REMEMBERED)
        self._revocations = 0

    async def issue(self, device: str, *, ttl_s: float | None = None, actor: str = "system", reason: str = "") -> str:
        """A new token; older ones stay good. It is told here and never again."""
        check_device_id(device)
        secret, now = secrets.token_urlsafe(_SECRET_BYTES), self._clock.now_ms()
        digest = digest_of(secret)
        record = DeviceToken(
            id=token_id(device, digest),
            device=device,
            sha256=digest,
            created=now,
            expires=None if ttl_s is None else now + int(ttl_s * 1000),
        )
        event = Event(
            type="token.issued", subject=device, time=now, actor=actor, reason=reason, data={"token": record.id}
        )
        await self.records.create(record, [event])
        return f"{DEVICE_TOKEN}{device}_{secret}"

    async def holders(self) -> AsyncIterator[str]:
        """The devices that have a token that is good."""
        now = self._clock.now_ms()
        async for record in self.records.iterate():
            if record.expires is None or now < record.expires:
                yield record.device

    async def verify(self, token: str) -> DeviceToken:
        """A token's record; raises NotAuthenticated, with one and the same message whatever is wrong."""
        match = _DEVICE_TOKEN.fullmatch(token)
        if match is None:
            raise _no_token()
        digest = digest_of(match[2])
        record = await self.need(token_id(match[1], digest))
        if not hmac.compare_digest(record.sha256, digest):
            raise _no_token()
        return record

    async def need(self, token: str) -> DeviceToken:
        """The record of the token with this id, while it is good; raises NotAuthenticated."""
        record = self._known.get(token)
        if record is None:
            if not is_token_id(token):  # of an id of any other form a store may make anything
                raise _no_token()
            record = await self._stored(token)
            self._known.put(record.id, record)
        if record.expires is not None and self._clock.now_ms() >= record.expires:
            raise _no_token()
        return record

    async def _stored(self, token: str) -> DeviceToken:
        while True:
            seen = self._revocations
            record = await self.records.get(token)
            if record is None:
                raise _no_token()
            if seen == self._revocations:  # else it may be gone since it was read
                return record

    async def of(self, device: str) -> list[DeviceToken]:
        """The tokens of a device, without their secrets."""
        return await self.records.find(ref=("device", device))

    def forget(self, device: str) -> None:
        """The device's tokens were revoked: none of them is good from now on."""
        self._revocations += 1
        self._known.forget(lambda token: token.device == device)

    async def revoke(self, token_id: str, *, actor: str, reason: str) -> str:
        """Revokes one token by its id and gives its device; raises NotFound."""
        record = await self.records.need(token_id)
        now = self._clock.now_ms()
        event = Event(
            type="token.revoked", subject=record.device, time=now, actor=actor, reason=reason, data={"token": token_id}
        )
        await self._storage.commit(Commit(deletes=(Delete(kind="device_token", key=token_id),), events=(event,)))
        self.forget(record.device)
        return record.device


def _no_token() -> NotAuthenticated:
    return NotAuthenticated("The device token is not valid", remedy="Issue a new one for the device")


def token_spent() -> NotAuthenticated:
    """The one refusal of enrolment tokens: unknown, wrong, used, expired and revoked ones look alike from outside."""
    return NotAuthenticated("The enrolment token is used, expired or unknown", code="token_spent")


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise Refused(
            f"{text!r} is not a network", remedy="Write address/bits with no bit set beyond them: 192.0.2.0/24"
        ) from error


def check_network(token: EnrollmentToken, source: str) -> None:
    """Raises NotAuthorised where the token is not good from ``source``, the peer's ``host:port``."""
    if token.networks and not within(host_of(source), [ipaddress.ip_network(network) for network in token.networks]):
        raise NotAuthorised(
            "The enrolment token is not good from this address",
            remedy="Enrol from the network that the token was made for, or make one for this network",
        )


class EnrollmentTokens:
    """Issues and checks enrolment tokens; they are charged in the commit that issues the certificate.

    Args:
        groups: what the devices of a token may be put into; None: nothing.
    """

    def __init__(self, storage: Storage, clock: Clock, groups: StaticGroups | None = None) -> None:
        self._clock, self._groups = clock, groups
        self.records = Repository(
            storage,
            "enrollment_token",
            EnrollmentToken,
            refs=lambda token: [] if token.device is None else [("device", token.device)],
        )
        self.used = Repository(storage, "enrollment_use", TokenUse, refs=lambda use: [("device", use.device)])

    def check_groups(self, groups: Sequence[str]) -> None:
        """Raises NotFound or Refused where new devices cannot be put into one of them."""
        if not groups:
            return
        if self._groups is None:
            raise Refused("This fleet keeps no groups")
        for group in groups:
            self._groups.check_static(group)

    async def create(
        self,
        *,
        device: str | None = None,
        uses: int = 1,
        ttl_s: float = 86_400,
        device_type: str = "device",
        groups: Sequence[str] = (),
        networks: Sequence[str] = (),
        actor: str = "system",
        reason: str = "",
    ) -> str:
        """A new token; it is told here and never again.

        Raises:
            NotFound: one of the groups does not exist.
            Refused: the uses are not 1 to 1,000,000, the time not up to 366 days, a name or network is impossible, or
                groups are given for one device.
        """
        self.check_groups(groups)
        if device is not None:
            check_device_id(device)
            if groups:
                raise Refused("Groups are for new devices", remedy=f"Put {device!r} into its groups itself")
        if len(networks) > _MAX_NETWORKS:
            raise Refused(
                f"A token is good from up to {_MAX_NETWORKS} networks", code="limit_exceeded", limit=_MAX_NETWORKS
            )
        check_label(device_type, "type")
        if not 1 <= uses <= _MAX_USES:
            raise Refused(f"An enrolment token has 1 to {_MAX_USES} uses, not {uses}")
        if not 0 < ttl_s <= _MAX_TTL_S:
            raise Refused(f"An enrolment token lasts up to {_MAX_TTL_S} seconds, not {ttl_s}")
        now, name, secret = self._clock.now_ms(), secrets.token_hex(8), secrets.token_urlsafe(_SECRET_BYTES)
        record = EnrollmentToken(
            id=name,
            sha256=digest_of(secret),
            uses=uses,
            left=uses,
            expires=now + int(ttl_s * 1000),
            created=now,
            created_by=actor,
            device=device,
            device_type=device_type,
            groups=tuple(dict.fromkeys(groups)),
            networks=tuple(dict.fromkeys(_network(network) for network in networks)),
        )
        event = Event(
            type="enrollment_token.created",
            subject=device or name,
            time=now,
            actor=actor,
            reason=reason,
            data={"token": name, "uses": uses, "expires": record.expires},
        )
        await self.records.create(record, [event])
        return f"{ENROLLMENT_TOKEN}{name}_{secret}"

    async def check(self, token: str) -> EnrollmentToken:
        """The record of a token that has not expired; whether uses are left is for the caller, who may be repeating.

        Raises NotAuthenticated (``token_spent``).
        """
        record = await self.find(token)
        if record is None or record.revoked or self._clock.now_ms() >= record.expires:
            raise token_spent()
        return record

    async def find(self, token: str) -> EnrollmentToken | None:
        """The record of a token, though it may have ended; None where there is none."""
        match = _ENROLLMENT_TOKEN.fullmatch(token)
        record = await self.records.get(match[1]) if match is not None else None
        if match is None or record is None or not hmac.compare_digest(record.sha256, digest_of(match[2])):
            return None
        return record

    async def living_of(self, device: str) -> list[EnrollmentToken]:
        """The tokens that are for this one device and still open something."""
        now = self._clock.now_ms()
        found = await self.records.find(ref=("device", device))
        return [token for token in found if not token.revoked and now < token.expires]

    async def revoke(self, token_id: str, *, actor: str = "system", reason: str = "") -> EnrollmentToken:
        """Ends a token by its id; raises NotFound. Devices that enrolled with it keep their certificates."""
        now = self._clock.now_ms()
        event = Event(type="enrollment_token.revoked", subject=token_id, time=now, actor=actor, reason=reason)
        return await self.records.change(
            token_id, lambda old: None if old.revoked else (evolve(old, revoked=True), [event])
        )
