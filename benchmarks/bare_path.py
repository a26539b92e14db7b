"""The whole data path as one bare script: the machine's limit, without any guarantees.

Typed decoding, minimal checks, columns, one durable log, one vectorised threshold. No identities, limits, duplicates,
message ids, late points, queries or recovery.
"""

import os
import time
from pathlib import Path

import msgspec
import numpy as np


class Message(msgspec.Struct):
    """The envelope form."""

    time: int
    values: dict[str, float]


def run(payloads: list[tuple[str, bytes]], batch: int, folder: Path) -> float:
    """Seconds for all messages, each ``(device, payload)``."""
    decode = msgspec.json.Decoder(Message).decode
    series_of: dict[str, dict[str, int]] = {}
    count = 0
    limit = 95.0
    found = 0
    with (folder / "bare.log").open("wb", buffering=0) as log:
        begun = time.perf_counter()
        for at in range(0, len(payloads), batch):
            series: list[int] = []
            times: list[int] = []
            values: list[float] = []
            for device, payload in payloads[at : at + batch]:
                message = decode(payload)
                when = message.time
                if when < 10**11:
                    raise ValueError(when)
                known = series_of.get(device)
                if known is None:
                    known = series_of[device] = {}
                for metric, value in message.values.items():
                    index = known.get(metric)
                    if index is None:
                        index = known[metric] = count
                        count += 1
                    series.append(index)
                    times.append(when)
                    values.append(value)
            columns = np.array(series, np.int64), np.array(times, np.int64), np.array(values, np.float64)
            log.write(b"".join(column.tobytes() for column in columns))
            os.fdatasync(log.fileno())
            found += int((columns[2] > limit).sum())
        return time.perf_counter() - begun
