"""Chunks: the sealed readings of one series as compressed columns, about 3 bytes a reading.

Packing is vectorised over all chunks of a seal. Times, values, quality and sequence numbers all become integers (values
with few decimals as multiples of a power of ten, others by their bits), and each integer column becomes small ones: the
distance from a straight line, or from the value before, whichever is shorter. Those are written byte plane by byte
plane, so that the high, mostly equal bytes are adjacent, and then deflated. Regular times and sequences cost nothing.

``received`` is not stored in chunks: after sealing, only a reading's event time is known.

A body is deflated (RFC 1951, no header): ``_HEADER``, then the planes of time, value, quality, seq.
"""

import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from attrs import frozen

from fleetcore.builtin.sqlite import checksum
from fleetcore.builtin.sqlite.order import Points, group_starts
from fleetcore.errors import StorageError
from fleetcore.model.telemetry import Float64, Int64, UInt8

#: A longer run of one series is split. Chunks of 3,600-14,400 readings decode fastest (33-36 M readings/s).
CHUNK_POINTS = 8192

_FORMAT = 1

#: How a value becomes an integer: 0-6 decimals, else the bits of a 32- or 64-bit float.
_DECIMALS = 6
_FLOAT32, _FLOAT64 = 32, 64
_EXACT = 2.0**53

_DELTA = 0x80
_COLUMNS = ("time", "value", "quality", "seq")

_HEADER = np.dtype(
    [
        ("format", "u1"),
        ("values", "u1"),
        ("coding", "u1", (4,)),
        ("n", "<u4"),
        ("base", "<i8", (4,)),
        ("step", "<i8", (4,)),
    ]
)

#: Run lengths and Huffman codes without a search for longer repetitions: the planes contain hardly any.
_LEVEL, _STRATEGY = 6, zlib.Z_RLE


#: A row of ``chunks``: series, t_min, id, t_max, n, v_last, q_last, seq_last.
Header = tuple[int, int, int, int, int, float, int, int]


@frozen(eq=False)
class Packed:
    """One chunk, ready to be written."""

    series: int
    t_min: int
    t_max: int
    n: int
    v_last: float
    q_last: int
    seq_last: int
    body: bytes

    def header(self, index: int) -> Header:
        """Its header row, with the given id."""
        return (self.series, self.t_min, index, self.t_max, self.n, self.v_last, self.q_last, self.seq_last)


def pack(points: Points) -> Iterator[Packed]:
    """Packs sorted points, each (series, time) once, into chunks in order of series and time."""
    if not len(points):
        return
    starts = _cuts(points)
    n = len(points)
    ends = np.append(starts[1:], n)
    counts = ends - starts
    nth = np.arange(n) - np.repeat(starts, counts)
    header = np.zeros(len(starts), _HEADER)
    header["format"] = _FORMAT
    header["n"] = counts
    value, header["values"], value_base = _integers(points.value, starts, counts)
    spans = np.maximum(counts - 1, 1)
    zero = np.zeros(len(starts), np.int64)
    columns = (
        (
            points.time,
            points.time[starts],
            np.rint((points.time[ends - 1] - points.time[starts]) / spans).astype(np.int64),
        ),
        (value, value_base, zero),
        (points.quality.astype(np.int64), points.quality[starts].astype(np.int64), zero),
        (points.seq, points.seq[starts], np.rint((points.seq[ends - 1] - points.seq[starts]) / spans).astype(np.int64)),
    )
    planes: list[list[bytes]] = []
    for i, (column, base, step) in enumerate(columns):
        small, is_delta, width = _narrow(column, base, step, starts, counts, nth)
        header["coding"][:, i] = width | np.where(is_delta, _DELTA, 0)
        header["base"][:, i], header["step"][:, i] = base, step
        octets = small.astype("<u8", copy=False).view(np.uint8).reshape(n, 8)
        planes.append([octets[:, k].tobytes() for k in range(int(width.max()))])
    heads = header.tobytes()
    widths = header["coding"] & 0x0F
    rows = zip(
        points.series[starts].tolist(),
        points.time[starts].tolist(),
        points.time[ends - 1].tolist(),
        counts.tolist(),
        points.value[ends - 1].tolist(),
        points.quality[ends - 1].tolist(),
        points.seq[ends - 1].tolist(),
        strict=True,
    )
    size = _HEADER.itemsize
    for i, (row, a, b, width) in enumerate(zip(rows, starts.tolist(), ends.tolist(), widths.tolist(), strict=True)):
        parts = [heads[i * size : (i + 1) * size]]
        parts += [planes[column][k][a:b] for column in range(4) for k in range(width[column])]
        press = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, 8, _STRATEGY)
        yield Packed(*row, press.compress(b"".join(parts)) + press.flush())  # type: ignore[call-arg]  # zip is of seven


def unpack(series: int, index: int, body: bytes, kept: int | None) -> Points:
    """A chunk's points, sorted by time; ``kept`` is its checksum, None for chunks of an earlier release.

    Raises:
        StorageError: the chunk is damaged (``data_damaged``), or its format is unknown to this release.
    """
    if kept is not None and kept != checksum.of_chunk(series, index, body):
        raise _damaged(series, index)
    try:
        plain = zlib.decompress(body, -zlib.MAX_WBITS)
        head = np.frombuffer(plain, _HEADER, 1)[0]
    except (zlib.error, ValueError) as error:
        raise _damaged(series, index) from error
    if head["format"] != _FORMAT:
        raise StorageError(f"A chunk has format {head['format']}, which is unknown to this release")
    n = int(head["n"])
    at = _HEADER.itemsize
    if len(plain) != at + n * int((head["coding"] & 0x0F).sum()):
        raise _damaged(series, index)
    columns: list[Int64] = []
    for coding, base, step in zip(head["coding"].tolist(), head["base"].tolist(), head["step"].tolist(), strict=True):
        width = coding & 0x0F
        columns.append(_widen(plain, at, n, width, bool(coding & _DELTA), base, step))
        at += n * width
    time, value, quality, seq = columns
    kind = int(head["values"])
    return Points(np.full(n, series, np.int64), time, _floats(value, kind), quality.astype(np.uint8), seq)


def _damaged(series: int, index: int) -> StorageError:
    return checksum.damaged(f"Chunk {index} of series {series}", series=series, chunk=index)


def _cuts(points: Points) -> Int64:
    starts = group_starts(points.series)
    counts = np.diff(starts, append=len(points))
    if not (counts > CHUNK_POINTS).any():
        return starts
    pieces = -(-counts // CHUNK_POINTS)
    which = np.repeat(np.arange(len(starts)), pieces)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    cuts: Int64 = starts[which] + nth * counts[which] // pieces[which]
    return cuts


def _integers(value: Float64, starts: Int64, counts: Int64) -> tuple[Int64, UInt8, Int64]:
    """Values as integers, their encoding, and a base to subtract; all three are exact."""
    kind = np.full(len(starts), _FLOAT64, np.uint8)
    integers = value.view(np.int64).copy()
    left = np.ones(len(starts), np.bool_)
    # A chunk's encoding is tried on its first readings before all of them.
    for decimals in range(_DECIMALS + 1):
        scale = 10.0**decimals
        hope = left.copy()
        for probe in (0, 1):
            at = np.minimum(starts + probe, starts + counts - 1)
            hope &= _is_multiple(value[at], scale)[1]
        if not hope.any():
            continue
        every = bool(hope.all())
        members = np.repeat(hope, counts)
        chosen = value if every else value[members]
        multiple, exact = _is_multiple(chosen, scale)
        inner = starts if every else np.cumsum(counts[hope]) - counts[hope]
        fits = np.logical_and.reduceat(exact, inner)
        if every and fits.all():
            integers = multiple
        else:
            taken = np.repeat(fits, counts[hope])
            places = np.flatnonzero(members)[taken]
            integers[places] = multiple[taken]
        done = np.flatnonzero(hope)[fits]
        kind[done] = decimals
        left[done] = False
        if not left.any():
            break
    if left.any():
        with np.errstate(over="ignore"):
            single = value.astype(np.float32)
        fits = np.logical_and.reduceat(single.astype(np.float64) == value, starts) & left
        if fits.any():
            places = np.repeat(fits, counts)
            integers[places] = single.view(np.int32)[places]
            kind[fits] = _FLOAT32
    base = integers[starts].copy()
    decimal = kind <= _DECIMALS
    if decimal.any():
        mean = np.rint(np.add.reduceat(integers.astype(np.float64), starts) / counts)
        base[decimal] = mean[decimal].astype(np.int64)
    return integers, kind, base


def _is_multiple(value: Float64, scale: float) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """``value * scale`` as integers, and where dividing them gives exactly the value again."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(value * scale)
        exact = (scaled / scale == value) & (np.abs(scaled) < _EXACT)
        return np.where(exact, scaled, 0.0).astype(np.int64), exact


def _floats(integers: Int64, kind: int) -> Float64:
    if kind <= _DECIMALS:
        decimal: Float64 = integers / 10.0**kind
        return decimal
    if kind == _FLOAT32:
        return integers.astype(np.int32).view(np.float32).astype(np.float64)
    return integers.view(np.float64)


def _narrow(
    column: Int64, base: Int64, step: Int64, starts: Int64, counts: Int64, nth: Int64
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_], Int64]:
    """A column as small unsigned integers, whether they are differences, and the bytes per chunk."""
    base_at = np.repeat(base, counts)
    if step.any():
        step_at = np.repeat(step, counts)
        line = column - (base_at + step_at * nth)
    else:
        step_at = None
        line = column - base_at
    if not line.any():
        return np.zeros(len(column), np.uint64), np.zeros(len(starts), np.bool_), np.zeros(len(starts), np.int64)
    delta = np.empty_like(column)
    delta[1:] = column[1:] - column[:-1]
    if step_at is not None:
        delta -= step_at
    delta[starts] = column[starts] - base
    is_delta = np.add.reduceat(np.abs(delta), starts, dtype=np.float64) < np.add.reduceat(
        np.abs(line), starts, dtype=np.float64
    )
    if is_delta.all():
        signed = delta
    elif is_delta.any():
        signed = np.where(np.repeat(is_delta, counts), delta, line)
    else:
        signed = line
    # Zigzag: small negative numbers become small positive ones.
    small = ((signed << 1) ^ (signed >> 63)).view(np.uint64)
    largest = np.maximum.reduceat(small, starts)
    width = np.zeros(len(starts), np.int64)
    for octet in range(8):
        width += largest >= np.uint64(1 << (8 * octet))
    return small, is_delta, width


def _widen(plain: bytes, at: int, n: int, width: int, is_delta: bool, base: int, step: int) -> Int64:
    """Reverses :func:`_narrow`."""
    if width == 0:
        return np.full(n, base, np.int64) if step == 0 else base + step * np.arange(n, dtype=np.int64)
    octets = np.zeros((n, 8), np.uint8)
    octets[:, :width] = np.frombuffer(plain, np.uint8, n * width, at).reshape(width, n).T
    small = octets.view("<u8").reshape(n)
    signed = (small >> np.uint64(1)).view(np.int64) ^ -(small & np.uint64(1)).view(np.int64)
    if not is_delta:
        signed += base
        return signed if step == 0 else signed + step * np.arange(n, dtype=np.int64)
    if step:
        signed[1:] += step
    signed[0] += base
    return np.cumsum(signed)
