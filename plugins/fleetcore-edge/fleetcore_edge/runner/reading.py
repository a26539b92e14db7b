"""The worker's end of the socket: small frames with one call of the system, large blocks straight to their place."""

import socket

_STAGE_BYTES = 1 << 16


class Reader:
    """Reads from a blocking socket; raises EOFError when the other side is gone."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._stage = memoryview(bytearray(_STAGE_BYTES))
        self._begin = self._end = 0

    def take(self, count: int) -> memoryview:
        """The next bytes, at most 64 KiB. They are valid until the next call."""
        while self._end - self._begin < count:
            if self._begin + count > _STAGE_BYTES:
                left = bytes(self._stage[self._begin : self._end])
                self._begin, self._end = 0, len(left)
                self._stage[: self._end] = left
            elif self._begin == self._end:
                self._begin = self._end = 0
            self._end += self._received(self._stage[self._end :])
        self._begin += count
        return self._stage[self._begin - count : self._begin]

    def into(self, place: memoryview) -> None:
        """Fills a place with the next bytes."""
        staged = min(len(place), self._end - self._begin)
        place[:staged] = self._stage[self._begin : self._begin + staged]
        self._begin += staged
        while staged < len(place):
            staged += self._received(place[staged:])

    def skip(self, count: int) -> None:
        """Drops the next bytes."""
        while count:
            count -= len(self.take(min(count, _STAGE_BYTES)))

    def _received(self, place: memoryview) -> int:
        count = self._source.recv_into(place)
        if not count:
            raise EOFError
        return count
