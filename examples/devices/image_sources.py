"""Where an image comes from: HTTPS, another server, CoAP over TLS, from any byte on; or a delta of the running image.

Nothing here is trusted: the device compares the whole with its manifest.
"""

import bz2
import contextlib
import http.client
import io
import socket
import ssl
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import urlsplit

from stdlib_http import Refusal

PIECE = 65_536
BLOCK = 1024  # bytes of a CoAP block


def over_http(server: http.client.HTTPConnection, path: str, at: int, size: int) -> Iterator[bytes]:
    """What is missing of an image: the rest of it, or the whole from a server that does not know ranges."""
    server.request("GET", path, headers={"Range": f"bytes={at}-"})
    answer = server.getresponse()
    if answer.status not in (200, 206):
        answer.read()
        raise ConnectionError(f"status {answer.status}")
    total = answer.headers.get("Content-Length") if answer.status == 200 else answer.headers["Content-Range"]
    if total is not None and int(total.rpartition("/")[2]) != size:
        answer.close()
        server.close()
        raise Refusal("size_mismatch", f"the image has {total} bytes; the manifest says {size}")
    if answer.status == 200:
        answer.read(at)
    while piece := answer.read(PIECE):
        yield piece
    answer.close()


def elsewhere(url: str, at: int, size: int) -> Iterator[bytes]:
    """The same from any server: it gets no credentials, and is not trusted."""
    to = urlsplit(url)
    if to.scheme == "https":
        server: http.client.HTTPConnection = http.client.HTTPSConnection(
            to.netloc, timeout=70, context=ssl.create_default_context()
        )
    else:
        server = http.client.HTTPConnection(to.netloc, timeout=70)
    with contextlib.closing(server):
        yield from over_http(server, f"{to.path}?{to.query}" if to.query else to.path, at, size)


def over_coap(tls: ssl.SSLContext, url: str, path: str, at: int) -> Iterator[bytes]:
    """The same block by block, from any block on, over CoAP with TLS (RFC 7959, RFC 8323)."""
    to, (block, skip) = urlsplit(url), divmod(at, BLOCK)
    names = [option(0 if place else 11, name.encode()) for place, name in enumerate(path.strip("/").split("/"))]
    tls.set_alpn_protocols(["coap"])
    with (
        socket.create_connection((to.hostname, to.port or 5684), 70) as plain,
        tls.wrap_socket(plain, server_hostname=to.hostname) as stream,
        stream.makefile("rb") as answers,
    ):
        stream.sendall(b"\x00\xe1")  # the settings of this side: there are none
        more = True
        while more:
            asked = b"".join(names) + option(12, (block << 4 | 6).to_bytes(4, "big").lstrip(b"\0"))
            stream.sendall(bytes((0xD0, len(asked) - 13, 1)) + asked)
            more, piece = block_of(answers)
            yield piece[skip:]
            block, skip = block + 1, 0


def option(delta: int, value: bytes) -> bytes:
    """An option of a CoAP request, of less than 269 bytes."""
    head = (delta << 4 | len(value),) if len(value) < 13 else (delta << 4 | 13, len(value) - 13)
    return bytes(head) + value


def take(stream: BinaryIO, count: int) -> bytes:
    """So many bytes; raises ConnectionError if there are fewer."""
    taken = stream.read(count)
    if len(taken) < count:
        raise ConnectionError("the stream ends")
    return taken


def length_of(nibble: int, stream: BinaryIO) -> int:
    """A length of CoAP: four bits, and the bytes that follow if it does not fit them."""
    if nibble < 13:
        return nibble
    return int.from_bytes(take(stream, nibble - 12), "big") + (13 if nibble == 13 else 269)


def block_of(answers: BinaryIO) -> tuple[bool, bytes]:
    """Whether more blocks follow an answer, and its block; signals that come before it are left out."""
    code = 0xE1
    while code >= 0xE0:
        head = take(answers, 1)[0]
        length, code = length_of(head >> 4, answers), take(answers, 1)[0]
        body = io.BytesIO(take(answers, (head & 15) + length)[head & 15 :])
    if code != 0x45:  # 2.05 Content
        raise ConnectionError(f"code {code >> 5}.{code & 31:02}")
    name, more = 0, False
    while (first := body.read(1)) not in (b"", b"\xff"):
        name += length_of(first[0] >> 4, body)
        value = take(body, length_of(first[0] & 15, body))
        if name == 23:  # Block2: number, more, size
            more = bool(value and value[-1] & 8)
    return more, body.read()


def patched(old: bytes, patch: bytes, size: int) -> Iterator[bytes]:
    """What a delta (BSDIFF40) makes of an image, never more than ``size`` bytes.

    Raises ValueError or OSError where it is for another image, or damaged.
    """
    numbers = [number(patch[at : at + 8]) for at in (8, 16, 24)]
    if not patch.startswith(b"BSDIFF40") or numbers[2] != size or min(numbers) < 0:
        raise ValueError("it is for another image")
    first, second = 32 + numbers[0], 32 + numbers[0] + numbers[1]
    control, added, extra = (Block(part) for part in (patch[32:first], patch[first:second], patch[second:]))
    at = made = 0
    while made < size:
        add, copy, move = (number(control.take(8)) for _ in range(3))
        if add < 0 or copy < 0 or not 0 < add + copy <= size - made or not 0 <= at <= at + add <= len(old):
            raise ValueError("it says more than there is")
        for begin in range(at, at + add, PIECE):
            base = old[begin : min(begin + PIECE, at + add)]
            yield bytes((one + two) & 255 for one, two in zip(base, added.take(len(base)), strict=True))
        for begin in range(0, copy, PIECE):
            yield extra.take(min(PIECE, copy - begin))
        made, at = made + add + copy, at + add + move


def number(content: bytes) -> int:
    """A number of a delta: little-endian, with a sign bit."""
    value = int.from_bytes(content, "little")
    return -(value & ~(1 << 63)) if value >> 63 else value


class Block:
    """A compressed part of a delta, unpacked as it is needed."""

    def __init__(self, packed: bytes) -> None:
        self.packed, self.unpack, self.ready = packed, bz2.BZ2Decompressor(), b""

    def take(self, count: int) -> bytes:
        """The next bytes; raises ValueError or OSError where it does not have them."""
        while len(self.ready) < count:
            if self.unpack.eof:
                raise ValueError("it ends early")
            more = self.unpack.decompress(self.packed, count - len(self.ready))
            self.packed = b""
            if not more and self.unpack.needs_input:
                raise ValueError("it ends early")
            self.ready += more
        taken, self.ready = self.ready[:count], self.ready[count:]
        return taken
