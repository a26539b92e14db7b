"""How a device proves its identity. The identity comes only from the credential, not from a payload or a client id."""

from enum import StrEnum

from attrs import field, frozen

#: The prefixes of tokens, by purpose.
DEVICE_TOKEN, ENROLLMENT_TOKEN = "fc_dev_", "fc_enr_"


class CertificateState(StrEnum):
    """Where a certificate stands."""

    PENDING_ACTIVATION = "pending_activation"
    PENDING = "pending"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"


class EnrollmentState(StrEnum):
    """The decision about a key that asked to enrol as a device."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Admits(StrEnum):
    """What a manufacturer's device gets at its first contact."""

    WAITING = "waiting"
    AT_ONCE = "at_once"


class Refusal(StrEnum):
    """Why a certificate is refused."""

    UNREADABLE = "unreadable"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    IS_CA = "is_ca"
    BASIC_CONSTRAINTS = "basic_constraints"
    KEY_WEAK = "key_weak"
    SIGNATURE_WEAK = "signature_weak"
    KEY_USAGE = "key_usage"
    EKU_MISSING = "eku_missing"
    EKU_WRONG = "eku_wrong"
    SAN_MISSING = "san_missing"
    SAN_MANY = "san_many"
    SAN_WRONG = "san_wrong"
    FLEET_FOREIGN = "fleet_foreign"
    ID_INVALID = "id_invalid"
    CN_MISMATCH = "cn_mismatch"
    KEY_ID_MISSING = "key_id_missing"
    UNTRUSTED = "untrusted"
    REVOKED = "revoked"
    SUPERSEDED = "superseded"
    NOT_ACTIVATED = "not_activated"


class Phase(StrEnum):
    """The progress of a rotation of the root CA."""

    SETTLED = "settled"
    ANNOUNCED = "announced"
    ISSUING = "issuing"


@frozen
class CertificateCredential:
    """The verified peer's certificate of a mutual-TLS connection, DER."""

    der: bytes


@frozen
class TokenCredential:
    """A device token ``fc_dev_<id>_<secret>``; ``device`` is the user name sent with it, where there was one."""

    token: str = field(repr=False)
    device: str | None = None


@frozen
class KeyCredential:
    """The peer has proved that it has the shared key of this device token (:mod:`fleetcore.wire.shared_keys`)."""

    token_id: str


@frozen
class AssertedCredential:
    """A broker's access control vouches that this device sent the message (wire.md §2)."""

    device: str
    by: str


@frozen
class LocalCredential:
    """The embedding process itself vouches for the device: the in-process protocol and the library."""

    device: str


Credential = CertificateCredential | TokenCredential | KeyCredential | AssertedCredential | LocalCredential
