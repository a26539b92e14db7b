"""What the security tests share: a clock that stands still, an authority made once, and devices' requests."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fleetcore.fleet.security.authority import Authority
from fleetcore.interfaces.clock import Clock

FLEET = "acme"


class StillClock(Clock):
    """Stands still until it is told to move; a sleep ends when it has moved far enough."""

    def __init__(self, now_ms: int) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        import asyncio

        end = self.ms + seconds * 1000
        while self.ms < end:
            await asyncio.sleep(0.001)

    def move(self, *, days: float = 0, hours: float = 0, seconds: float = 0) -> None:
        self.ms += int(((days * 24 + hours) * 3600 + seconds) * 1000)


@pytest.fixture
def clock() -> StillClock:
    # TLS judges by the machine's own clock, so the tests begin at the real time and move on from there.
    return StillClock(int(datetime.now(UTC).timestamp()) * 1000)


@pytest.fixture
def authority(clock: StillClock) -> Authority:
    return Authority.create(FLEET, clock)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr(device: str, key=None, *, extensions=(), encoding=Encoding.PEM, algorithm=None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key or new_key(), algorithm or hashes.SHA256()).public_bytes(encoding)
