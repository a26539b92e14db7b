"""How a device shows who it is. The identity comes from here alone, never from a payload or a client id."""

from attrs import field, frozen


@frozen
class CertificateCredential:
    """The verified peer's certificate of a mutual-TLS connection, DER."""

    der: bytes


@frozen
class TokenCredential:
    """A device token ``fc_dev_<id>_<secret>``; ``device`` is the user name it came with, where there was one."""

    token: str = field(repr=False)
    device: str | None = None


@frozen
class AssertedCredential:
    """A broker's access control vouches that this device sent the message (WIRE.md §2)."""

    device: str
    by: str


@frozen
class LocalCredential:
    """The embedding process itself vouches for the device: the in-process protocol and the façade."""

    device: str


Credential = CertificateCredential | TokenCredential | AssertedCredential | LocalCredential
