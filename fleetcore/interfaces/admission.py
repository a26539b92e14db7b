"""Admission: a plugin's check that each enrolment must pass, after the fleet's own rules have allowed it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeAlias

from attrs import field, frozen, validators

from fleetcore.model.device import Device


@frozen(kw_only=True)
class Candidate:
    """A device that asks for its first certificate here, or for another one outside a renewal.

    Attributes:
        device: the id under which it is, or will be, registered.
        fingerprint: SHA-256 (hex) of the SubjectPublicKeyInfo that the certificate would be for.
        parameters: what the device says about itself, unproven.
        source: the address the request came from.
        issued_via: what entitles it: ``token:ID``, ``key_id``, ``approval``, ``claim:BATCH``, ``manufacturer:NAME``.
    """

    device: Device
    fingerprint: str = ""
    parameters: Mapping[str, object] = field(factory=dict)
    source: str = ""
    issued_via: str = ""


@frozen
class Admit:
    """This check lets the device enrol."""


@frozen
class Refuse:
    """The device may not enrol. Operators see the reason; the device gets the same answer for every reason."""

    reason: str = field(validator=(validators.instance_of(str), validators.min_len(1)))


@frozen
class Wait:
    """Not decided yet: the device gets status 202 and asks again after this many seconds, which repeats the check."""

    reason: str = field(validator=(validators.instance_of(str), validators.min_len(1)))
    retry_after_s: float = field(
        default=30.0, validator=(validators.instance_of((int, float)), validators.ge(1), validators.le(86_400))
    )


Verdict: TypeAlias = Admit | Refuse | Wait


class Admission(ABC):
    """Decides about enrolments where ``[admission.NAME]`` requires it.

    Asked for every enrolment except renewals, after the fleet's own rules have allowed it and before anything is
    stored. It may be asked again about the same device. All required checks must admit the device, within 5 s together.
    A check that is not open, raises, takes longer, or answers anything else refuses: checks fail closed.
    """

    @abstractmethod
    async def decide(self, candidate: Candidate) -> Verdict:
        """Returns :class:`Admit`, :class:`Refuse` or :class:`Wait`. Repeating a call must be harmless."""


class BlockingAdmission(Admission):
    """A check by blocking code, such as a library without asyncio. Each call runs in its own thread.

    A thread cannot be ended: up to 16 may hang at a time; beyond that, enrolments are refused at once.
    """

    @abstractmethod
    def decide_blocking(self, candidate: Candidate) -> Verdict:
        """As :meth:`Admission.decide`, but may block. Several threads call it at the same time."""

    async def decide(self, candidate: Candidate) -> Verdict:
        return await asyncio.to_thread(self.decide_blocking, candidate)
