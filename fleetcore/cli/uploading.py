"""An upload that goes on by itself: it asks how far the image has come and sends the rest, after a broken line too."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

from fleetcore.errors import Conflict, Refused, Unavailable
from fleetcore.wire.pieces import PIECE_BYTES

#: Attempts in a row that get nothing through, and the pause before the second of them; each next one is twice as long.
_ATTEMPTS = 7
_PAUSE_S = 0.5

Pause = Callable[[float], Any]


class Caller(Protocol):
    """Makes calls on a fleet."""

    async def run(self, name: str, given: dict[str, Any]) -> Any:
        """The answer of a call."""
        ...


async def upload_file(
    caller: Caller,
    file: Path,
    sha256: str,
    size: int,
    *,
    step: Callable[[int], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
    pause: Pause = asyncio.sleep,
) -> Any:
    """Uploads a file and returns the upload's last answer.

    Args:
        step: called with the number of bytes of each piece, and of what had come before; less than 0 for lost pieces.
        note: called with a sentence whenever the upload is interrupted, and when it goes on.
        pause: waits before the next attempt.

    Raises:
        Unavailable: nothing came through in several attempts, or the store is full.
        Refused: as the call; or the file is shorter than its announced size.
    """
    shown = reached = failed = 0

    async def rest(start: int) -> AsyncIterator[bytes]:
        nonlocal shown
        async for piece in _from(file, start):
            yield piece
            step(len(piece))
            shown += len(piece)

    while True:
        try:
            upload = await caller.run("get_upload", {"sha256": sha256, "size": size})
            received = upload["received"]
            # Pieces that were sent may not have come.
            step(received - shown)
            shown = received
            if upload["complete"]:
                return upload
            if failed or received:
                note(f"The upload goes on after {received} of {size} bytes.")
            if received > reached:
                reached, failed = received, 0
            given = {"sha256": sha256, "size": size, "offset": received, "content": rest(received)}
            upload = await caller.run("continue_upload", given)
            if upload["received"] == received and not upload["complete"]:
                raise Refused(f"{file} has {received} bytes, not {size}", code="size_mismatch")
        except (Unavailable, Conflict) as error:
            failed += 1
            lost = isinstance(error, Conflict) and error.code != "offset_mismatch"
            if lost or failed == _ATTEMPTS or error.code == "storage_full":
                raise
            note(f"The upload was interrupted: {error.message}.")
            await pause(_PAUSE_S * 2 ** (failed - 1))


async def _from(file: Path, start: int) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(file.open, "rb") as opened:
        await asyncio.to_thread(opened.seek, start)
        while piece := await asyncio.to_thread(opened.read, PIECE_BYTES):
            yield piece
