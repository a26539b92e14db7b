"""Downloads of a firmware image over HTTP, plain and over TLS, against aiohttp's own answer with a file.

Each server is in a process of its own, the client in this one: threads that read into one buffer each. Of its two
loops aiohttp runs on the quicker one: asyncio's where it sends a file without reading it (sendfile), uvloop over TLS.
The fleet runs on uvloop, as ``fleetcore serve`` does, and checks what it reads. What is claimed is the ratio of the
rates, in turn.
"""

import hashlib
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from benchmarks.children import child
from benchmarks.measure import Row, at_least, in_turn

_IMAGE_BYTES, _READ_BYTES = 64 << 20, 1 << 20
_DEVICES = [f"dev-{number}" for number in range(8)]
_GOALS = {"http": 0.7, "https": 0.9}


@frozen(kw_only=True)
class _Server:
    """Where a server is, the path of the image, and the tokens of the devices."""

    port: int
    tls: bool
    path: str
    tokens: tuple[str, ...]

    def rate(self, connections: int) -> float:
        """MB/s of so many downloads at once."""
        begun = time.perf_counter()
        with ThreadPoolExecutor(connections) as pool:
            done = list(pool.map(self._download, self.tokens[:connections]))
        spent = time.perf_counter() - begun
        assert done == [_IMAGE_BYTES] * connections, done
        return sum(done) / spent / 1e6

    def _download(self, token: str) -> int:
        buffer = memoryview(bytearray(_READ_BYTES))
        with ExitStack() as stack:
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", self.port)))
            if self.tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                peer = stack.enter_context(context.wrap_socket(peer))
            asked = f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
            peer.sendall(f"{asked}Connection: close\r\n\r\n".encode())
            head, _, body = bytes(buffer[: peer.recv_into(buffer)]).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            count = len(body)
            while count < _IMAGE_BYTES and (came := peer.recv_into(buffer)):
                count += came
            return count


@contextmanager
def _serving(task: dict[str, Any], path: str) -> Iterator[_Server]:
    with child("serving", task) as server:
        url = urlsplit(server.told["endpoints"]["http"][0])
        tokens = tuple(token for _, token in server.told.get("tokens", ())) or ("x" * 70,) * len(_DEVICES)
        assert url.port is not None
        yield _Server(port=url.port, tls=url.scheme == "https", path=path, tokens=tokens)


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        image, certificate = Path(folder) / "image", Path(folder) / "server.pem"
        image.write_bytes(os.urandom(_IMAGE_BYTES))
        _certify(certificate)
        path = f"/device/v1/artifacts/{hashlib.sha256(image.read_bytes()).hexdigest()}"
        for scheme, goal in _GOALS.items():
            data = Path(folder) / scheme
            ours: dict[str, Any] = {
                "kind": "fleet", "data": str(data), "protocols": {"http": {"listen": f"{scheme}://127.0.0.1:0"}},
                "devices": _DEVICES, "image": str(image),
            }  # fmt: skip
            theirs: dict[str, Any] = {"kind": "aiohttp file", "loop": "asyncio", "image": str(image)}
            if scheme == "https":
                theirs |= {"certificate": str(certificate), "loop": "uvloop"}
            with _serving(ours, path) as fleet, _serving(theirs, path) as other:
                for count in (1, len(_DEVICES)):
                    candidates = {"ours": partial(fleet.rate, count), "theirs": partial(other.rate, count)}
                    found = in_turn(candidates, 5 if quick else 15)
                    rows.append(
                        at_least(
                            f"image of 64 MiB over {scheme}, {count} at once", found["ours"], "aiohttp's FileResponse",
                            found["theirs"], "MB/s", goal,
                        )
                    )  # fmt: skip
    return rows


def _certify(place: Path) -> None:
    """A key and its own certificate, of the kind that the fleet makes for its listeners."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    place.write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
