"""Admission: a check of a plugin that each enrolment has to pass, after the fleet's own rules have let it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeAlias

from attrs import field, frozen, validators

from fleetcore.model.device import Device


@frozen(kw_only=True)
class Candidate:
    """A device that is about to get its first certificate here, or another one without renewing.

    Attributes:
        device: as it is registered, or as it will be.
        fingerprint: SHA-256 (hex) of the SubjectPublicKeyInfo that the certificate would be for.
        parameters: what the device says about itself; nothing of it is proven.
        source: the address it asks from.
        issued_via: what entitles it: ``token:ID``, ``key_id``, ``approval``, ``claim:BATCH``, ``manufacturer:NAME``.
    """

    device: Device
    fingerprint: str = ""
    parameters: Mapping[str, object] = field(factory=dict)
    source: str = ""
    issued_via: str = ""


@frozen
class Admit:
    """The device may enrol, as far as this check goes."""


@frozen
class Refuse:
    """The device may not enrol. The reason is for operators; the device hears the same whatever the reason is."""

    reason: str = field(validator=(validators.instance_of(str), validators.min_len(1)))


@frozen
class Wait:
    """Not decided yet: the device is answered 202 and is to ask again after so many seconds; then the check is too."""

    reason: str = field(validator=(validators.instance_of(str), validators.min_len(1)))
    retry_after_s: float = field(
        default=30.0, validator=(validators.instance_of((int, float)), validators.ge(1), validators.le(86_400))
    )


Verdict: TypeAlias = Admit | Refuse | Wait


class Admission(ABC):
    """Decides about enrolments where ``[admission.NAME]`` requires it.

    Asked for every enrolment, renewals apart, after the fleet's own rules have let the device in and before anything is
    stored; it may be asked again about the same device. All that are required have to admit, within 5 s together. One
    that is not open, raises, takes longer, or answers anything else refuses: the check fails closed.
    """

    @abstractmethod
    async def decide(self, candidate: Candidate) -> Verdict:
        """Answers with :class:`Admit`, :class:`Refuse` or :class:`Wait`; changes nothing that matters when repeated."""


class BlockingAdmission(Admission):
    """A check by code that blocks, a library without asyncio for example. Each call runs in a thread of its own.

    A thread cannot be ended: 16 may hang at a time, beyond that enrolments are refused at once.
    """

    @abstractmethod
    def decide_blocking(self, candidate: Candidate) -> Verdict:
        """As :meth:`Admission.decide`; may block, and is called by several threads at a time."""

    async def decide(self, candidate: Candidate) -> Verdict:
        return await asyncio.to_thread(self.decide_blocking, candidate)
