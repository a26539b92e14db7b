"""Trust: issuing and verifying against the bare library calls, the look-up of a revocation, enrolling, revoking.

Bare issuing builds and signs the same certificate with ``cryptography`` alone; bare verifying parses it and verifies
its chain with ``cryptography.x509.verification`` alone. The time from a revocation to the last accepted message is
taken with real clients that send one message after the other over mutual TLS, for HTTP and for both MQTT versions.
"""

import asyncio
import datetime as dt
import random
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from benchmarks.measure import Row, at_most, in_turn
from fleetcore.errors import FleetError
from fleetcore.fleet.security import Authority, Refusal
from fleetcore.fleet.security.verify import CertificateVerifier
from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets, EnrollRequest
from fleetcore.interfaces.provider import Limits
from fleetcore.model.names import device_uri
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.clock import SystemClock
from fleetcore.runtime.config import Config, FleetSection, Instance
from fleetcore.wire import messages
from fleetcore.wire.identity import make_csr, make_key

_REVOKED = 1_000_000


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    count, rounds = (200, 3) if quick else (1000, 5)
    return [*_certificates(count, rounds), *_look_up(), *asyncio.run(_served(20 if quick else 60, quick=quick))]


def _certificates(count: int, rounds: int) -> list[Row]:
    clock = SystemClock()
    authority = Authority.create("bench", clock)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    issued = [
        authority.issue_device(f"d-{number}", key).public_bytes(Encoding.DER) for number in range(count * rounds * 2)
    ]
    unseen = iter(issued)

    def ours_issue() -> float:
        return _each_us(lambda number: authority.issue_device(f"d-{number}", key), count)

    def bare_issue() -> float:
        return _each_us(lambda number: _bare(authority, f"d-{number}", key), count)

    verifier = CertificateVerifier(authority, clock, lambda _certificate: None)

    def ours_verify() -> float:
        some = [next(unseen) for _ in range(count)]
        spent = _each_us(lambda number: verifier.check(some[number]), count)
        assert not isinstance(verifier.check(some[0]), Refusal)
        return spent

    store, between = Store(list(authority.roots)), list(authority.intermediates)

    def bare_verify() -> float:
        some = [next(unseen) for _ in range(count)]

        def one(number: int) -> object:
            leaf = x509.load_der_x509_certificate(some[number])
            return (
                PolicyBuilder().store(store).time(dt.datetime.now(dt.UTC)).build_client_verifier().verify(leaf, between)
            )

        return _each_us(one, count)

    found = in_turn(
        {"issue": ours_issue, "bare issue": bare_issue, "verify": ours_verify, "bare verify": bare_verify}, rounds
    )
    return [
        at_most("issue a device's certificate", found["issue"], "bare calls", found["bare issue"], "µs", 1.5),
        at_most("verify one, the first time", found["verify"], "bare calls", found["bare verify"], "µs", 1.5),
    ]


def _each_us(work: Callable[[int], object], count: int) -> float:
    begun = time.perf_counter()
    for number in range(count):
        work(number)
    return (time.perf_counter() - begun) / count * 1e6


def _bare(authority: Authority, device: str, key: ec.EllipticCurvePublicKey) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    signer = authority.issuing
    usage = dict.fromkeys(
        ("key_cert_sign", "crl_sign", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)]))
        .issuer_name(signer.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=90))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(device_uri("bench", device))]), critical=False
        )
        .sign(signer.key, hashes.SHA256())
    )


def _look_up() -> list[Row]:
    from fleetcore.builtin.sqlite.config import SqliteConfig
    from fleetcore.builtin.sqlite.engine import Engine
    from fleetcore.builtin.sqlite.storage import SqliteStorage
    from fleetcore.fleet.security.inventory import Inventory

    authority = Authority.create("bench", SystemClock())
    storage = SqliteStorage(Engine(None, SqliteConfig()))
    inventory = Inventory(storage, SystemClock(), authority, overlap=dt.timedelta(hours=24))
    issuer = authority.issuer
    chance = random.Random(1)
    serials = [format(chance.getrandbits(159), "x") for _ in range(_REVOKED)]
    # As Inventory.load leaves them; a million rows in a store would only be read back into this.
    inventory._ends = {f"{issuer}:{serial}": (0, Refusal.REVOKED) for serial in serials}
    asked = [
        chance.choice(serials) if number % 2 else format(chance.getrandbits(159), "x") for number in range(100_000)
    ]
    found = 0
    begun = time.perf_counter()
    for serial in asked:
        found += inventory.is_revoked(issuer, serial)
    spent = (time.perf_counter() - begun) / len(asked) * 1e6
    assert found == len(asked) // 2
    return [Row(name=f"look-up among {_REVOKED:,} revoked certificates", value=spent, unit="µs")]


async def _served(cycles: int, *, quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            fleet=FleetSection(name="bench", data=folder, hosts=("localhost", "127.0.0.1")),
            limits=Limits(rate_per_s=1e9, burst=1 << 30),
            protocols=(
                Instance(name="http", kind="http", table={"listen": "https://127.0.0.1:0"}),
                Instance(name="mqtt", kind="mqtt", table={"listen": "mqtts://127.0.0.1:0"}),
            ),
        )
        fleet = await Fleet.open(config)
        try:
            await fleet.serve()
            rows = [await _enrolments(fleet, 50 if quick else 300)]
            for kind in ("http", "mqtt", "mqtt 3.1.1"):
                rows += await _revocations(fleet, kind, cycles)
            return rows
        finally:
            await fleet.close()


def _client(fleet: Fleet, kind: str, secrets: DeviceSecrets) -> DeviceClient:
    from fleetcore_http.plugin import open_client
    from fleetcore_mqtt.client import MqttDeviceClient

    if kind == "http":
        return open_client(fleet.protocols["http"].adapter.endpoints[0], secrets)
    url = fleet.protocols["mqtt"].adapter.endpoints[0]
    return MqttDeviceClient(url, secrets, version="3.1.1" if kind == "mqtt 3.1.1" else "5")


async def _enrolled(fleet: Fleet, device: str, token: str) -> DeviceSecrets:
    pem, key = make_key()
    secrets = DeviceSecrets(device=device, ca=fleet.security.authority.ca_pem(), key=pem)
    async with _client(fleet, "http", secrets) as client:
        reply = await client.enroll(EnrollRequest(csr=make_csr(device, key), token=token))
    body: Any = reply.body
    assert reply.status == 201, reply
    return DeviceSecrets(device=device, ca=secrets.ca, key=pem, certificate=body["certificate"].encode())


async def _enrolments(fleet: Fleet, count: int) -> Row:
    token = await fleet.security.enrollment_tokens.create(uses=count)
    turn = asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with turn:
            await _enrolled(fleet, f"e-{number:04d}", token)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    spent = time.perf_counter() - begun
    return Row(name="enrolments over HTTPS, key and handshake of each device included", value=count / spent, unit="/s")


async def _revocations(fleet: Fleet, kind: str, cycles: int) -> list[Row]:
    """Milliseconds from the return of ``revoke`` to the acknowledgement of the last accepted message."""
    late: list[float] = []
    for cycle in range(cycles):
        device = f"r-{kind.replace(' ', '-')}-{cycle}"
        token = await fleet.security.enrollment_tokens.create()
        secrets = await _enrolled(fleet, device, token)
        accepted = [0.0]
        begun = asyncio.Event()
        sending = asyncio.create_task(_send(fleet, kind, secrets, accepted, begun))
        async with asyncio.timeout(30):
            await begun.wait()
        await fleet.security.revoke(device, reason="bench")
        revoked = time.perf_counter()
        await sending
        late.append(max(0.0, (accepted[0] - revoked) * 1000))
    p50, p99, most = np.percentile(late, [50, 99, 100])
    name = f"last accepted message after a revocation, {kind}, {cycles} devices"
    return [
        Row(name=f"{name}, {what}", value=float(value), unit="ms", goal="≤ 1000", met=bool(value <= 1000))
        for what, value in (("p50", p50), ("p99", p99), ("max", most))
    ]


async def _send(fleet: Fleet, kind: str, secrets: DeviceSecrets, accepted: list[float], begun: asyncio.Event) -> None:
    """Sends until it is refused, and tries to come back once."""
    for _ in range(2):
        try:
            async with _client(fleet, kind, secrets) as client:
                while True:
                    reply = await client.send(messages.TELEMETRY, {"power": 1.0})
                    if reply.error is not None:
                        break
                    accepted[0] = time.perf_counter()
                    begun.set()
        except FleetError:
            continue
