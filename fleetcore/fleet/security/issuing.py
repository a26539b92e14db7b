"""Issuing: a certificate is signed and written with everything that it depends on in one commit.

The decision is made elsewhere and passed as a :class:`Grant`. A new device is registered in the same commit as its
certificate, so neither exists without the other, and of two concurrent requests for one id one succeeds.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from attrs import field, frozen

from fleetcore.errors import Conflict, NotAuthorised, VersionConflict
from fleetcore.fleet.security.authority import Authority
from fleetcore.fleet.security.inventory import CertificateRecord, Inventory
from fleetcore.fleet.security.requests import CertificateRequest
from fleetcore.interfaces.clock import Clock
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.message import Reply
from fleetcore.model.store import Commit, Event, Put
from fleetcore.wire.times import format_time


class DeviceDirectory(Protocol):
    """The part of the registry that enrolment uses."""

    async def find(self, device: str) -> Device | None:
        """The device or None."""
        ...

    async def prepared(self, device: str, type: str, *, model: str | None = None, tags: Sequence[str] = ()) -> Device:
        """The record that would be registered; raises Refused for an invalid name."""
        ...

    def registration(self, device: Device, *, actor: str, reason: str) -> Commit:
        """The commit that registers it; it raises VersionConflict or Conflict where the id is taken."""
        ...

    def registered(self, device: Device) -> None:
        """Notifies the registry of the commit."""
        ...


class StaticGroups(Protocol):
    """The groups that new devices may join."""

    def check_static(self, group: str) -> None:
        """Raises NotFound where there is none of this name, Refused where it is dynamic."""
        ...

    async def add(self, group: str, devices: Iterable[str], *, actor: str, reason: str) -> int:
        """Adds devices to it; members stay. Raises as :meth:`check_static`."""
        ...


def _nothing(_record: CertificateRecord) -> Sequence[Put]:
    return ()


@frozen(kw_only=True)
class Grant:
    """The right of a request to a certificate.

    Attributes:
        how: the right, for the inventory: ``key_id``, ``approval``, ``token:<id>`` …
        register: whether the device does not exist yet and is registered with its certificate.
        replaces: certificates that end once this one connects.
        inactive_until: the certificate is not valid before its activation, and ends at this time (ms) without it.
        extra_puts: further puts of the same commit.
    """

    device: Device
    how: str
    register: bool = False
    replaces: tuple[CertificateRecord, ...] = ()
    inactive_until: int | None = None
    extra_puts: Callable[[CertificateRecord], Sequence[Put]] = field(default=_nothing, repr=False)


class Issuer:
    """Issues granted certificates, and makes the replies to devices.

    Args:
        endpoints: the URLs for a new device.
        lifetime: of devices' certificates.
    """

    def __init__(
        self,
        clock: Clock,
        authority: Authority,
        inventory: Inventory,
        directory: DeviceDirectory,
        *,
        endpoints: Callable[[], Sequence[str]],
        lifetime: dt.timedelta,
    ) -> None:
        self._clock, self._authority = clock, authority
        self.inventory, self.directory = inventory, directory
        self._endpoints, self._lifetime = endpoints, lifetime

    async def issue(
        self, asked: CertificateRequest, grant: Grant, *, actor: str, reason: str = "", source: str = ""
    ) -> CertificateRecord:
        """Signs and writes everything in one commit.

        Raises:
            VersionConflict: something that it depends on changed; nothing was written, decide again.
            Conflict: ``already_exists``; another device's id differs from this one's only in case.
        """
        device = grant.device.id
        key = await self.inventory.key_for(device, asked.spki)
        certificate = self._authority.issue_device(device, asked.public_key, lifetime=self._lifetime)
        record = self.inventory.draft(
            certificate, device, how=grant.how, replaces=grant.replaces, inactive_until=grant.inactive_until
        )
        event = Event(
            type="certificate.issued",
            subject=device,
            time=record.created,
            actor=actor,
            reason=reason or grant.how,
            data={"certificate": record.id, "fingerprint": asked.spki, "source": source},
        )
        registration = self.registration(grant.device, actor=actor, reason=grant.how) if grant.register else Commit()
        try:
            added = await self.inventory.add(
                record,
                key,
                (event, *registration.events),
                replaces=grant.replaces,
                with_puts=(*registration.puts, *grant.extra_puts(record)),
            )
        except VersionConflict:
            raise
        except Conflict as error:
            raise taken(device) from error
        if grant.register:
            self.directory.registered(grant.device)
        return added

    def registration(self, device: Device, *, actor: str, reason: str) -> Commit:
        """The part of a larger commit that registers a device."""
        return self.directory.registration(device, actor=actor, reason=reason)

    def answer(self, record: CertificateRecord, **more: object) -> Reply:
        """The reply to a device with a certificate (wire.md §11)."""
        return Reply(
            status=201,
            body={
                "device": record.device,
                "certificate": record.pem,
                "chain": self._authority.chain_pem().decode(),
                "ca": self._authority.ca_pem().decode(),
                "not_after": format_time(record.not_after),
                "renew_after": format_time(record.renew_after),
                "endpoints": list(self._endpoints()),
                **more,
            },
        )


def taken(device: str) -> Conflict:
    """The error for an id that belongs to an existing device."""
    return Conflict(
        f"Device {device!r} is registered already, or an id that differs from it only in case",
        remedy="Make an enrolment token for this device",
        device=device,
    )


def check_device(device: Device | None, name: str) -> Device:
    """The device, where it may enrol.

    Raises NotAuthorised: ``device_unknown``, ``device_suspended``, ``device_retired``.
    """
    if device is None:
        raise NotAuthorised(
            f"Device {name!r} is not registered",
            code="device_unknown",
            remedy="Register it first, or enrol it by a token",
            device=name,
        )
    if device.lifecycle in (Lifecycle.RETIRED, Lifecycle.SUSPENDED):
        raise NotAuthorised(f"Device {name!r} is {device.lifecycle}", code=f"device_{device.lifecycle}", device=name)
    return device
