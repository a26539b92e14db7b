"""The objects and records of a recording plane: sessions, claims, artifacts, and what it recorded."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import NamedTuple

from fleetcore.interfaces.protocol import ArtifactReader, ClaimSession, CloseOnce, Session
from fleetcore.model.credential import Credential
from fleetcore.model.message import Inbound, Rejected, Reply


class Received(NamedTuple):
    """A message and its sender."""

    identity: str
    message: Inbound


class Authentication(NamedTuple):
    """A credential, and the adapter's description of the connection."""

    credential: Credential
    protocol: str
    peer: str
    lasting: bool


class Denial(NamedTuple):
    """A refusal to a device or a claim certificate, as a server audits it."""

    who: str
    what: str
    code: str
    data: Mapping[str, object]


class Refusal(NamedTuple):
    """A message refused by the adapter itself; ``identity`` is empty without a session."""

    identity: str
    message: Inbound
    rejected: Rejected


class _Ends(CloseOnce):
    """An object that a test can end."""

    def end_silently(self, code: str) -> None:
        """Ends it without telling the connection: an adapter has to notice that itself."""
        self._ended = code


class RecordingSession(_Ends, Session):
    """A device's session, which a test can end."""

    def __init__(self, identity: str) -> None:
        super().__init__()
        self._identity = identity

    @property
    def identity(self) -> str:
        return self._identity


class RecordingClaim(_Ends, ClaimSession):
    """A session with a claim certificate, which a test can end."""

    def __init__(
        self,
        batch: str,
        denied: Callable[[Denial], None],
        call: "Callable[[RecordingClaim, Inbound], Awaitable[Reply]]",
    ) -> None:
        super().__init__()
        self.batch, self._denied, self._call = batch, denied, call

    @property
    def name(self) -> str:
        return f"fleetcore:claim:{self.batch}"

    def denied(self, what: str, code: str, **data: object) -> None:
        self._denied(Denial(self.name, what, code, data))

    async def call(self, message: Inbound) -> Reply:
        return await self._call(self, message)


class RecordedArtifact(ArtifactReader):
    """An artifact in memory, read in small pieces.

    Args:
        breaks: how many reads fail once they reach byte ``breaks_at``.
    """

    def __init__(self, content: bytes, *, piece_bytes: int = 1000, breaks: int = 0, breaks_at: int = 0) -> None:
        self._content, self._piece_bytes = content, piece_bytes
        self._breaks, self._breaks_at = breaks, breaks_at

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._content).hexdigest()

    @property
    def size_bytes(self) -> int:
        return len(self._content)

    async def read(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        stop = len(self._content) if end is None else end
        for at in range(start, stop, self._piece_bytes):
            if self._breaks and at >= self._breaks_at:
                self._breaks -= 1
                raise OSError("the disk is gone")
            yield self._content[at : min(at + self._piece_bytes, stop)]
