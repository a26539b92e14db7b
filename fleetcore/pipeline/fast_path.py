"""The fast path: the most common messages go straight into the columns, past the steps that others need.

It takes no message that the steps would refuse, and leaves the others untouched. A test compares both ways.
"""

from fleetcore.pipeline.columns import Columns, server_time
from fleetcore.pipeline.receive import Delivery
from fleetcore.wire.messages import TELEMETRY
from fleetcore.wire.readings import decode_quick
from fleetcore.wire.times import EARLIEST_MS

_JSON = (None, "application/json")


def take(
    deliveries: list[Delivery], columns: Columns, last_seen: dict[str, int], limit_bytes: int
) -> tuple[list[Delivery], list[Delivery]]:
    """Takes messages of the simplest form with known metrics, from an active device, and with a valid time.

    Returns what it took, one group of the columns each and in order, and the rest.
    """
    taken: list[Delivery] = []
    rest: list[Delivery] = []
    series, add_series, add_values = columns.series, columns.series.extend, columns.values.extend
    add_time, add_received = columns.times.append, columns.received.append
    add_quality, add_count = columns.quality.append, columns.counts.append
    take = taken.append
    # Devices with a skipped message: their later messages are skipped too, so that each device's order stays.
    behind: set[str] = set()

    def leave(delivery: Delivery) -> None:
        rest.append(delivery)
        behind.add(delivery[1].subject)

    for delivery in deliveries:
        session, message, _, received = delivery
        identity = session.state
        state = session.subjects.get(message.subject)
        payload = message.payload
        if (
            state is None
            or not state.established
            or (state is not identity and not identity.established)
            or message.type is not TELEMETRY
            or message.id is not None
            or message.receipt is not None
            or identity.tokens < 1
            or session.lost_rights
            or len(payload) > limit_bytes
            or message.content_type not in _JSON
            or (behind and message.subject in behind)
        ):
            leave(delivery)
            continue
        simple = decode_quick(payload)
        if simple is None or not simple[1]:
            leave(delivery)
            continue
        time, values = simple
        quality = state.quality
        if time is None:
            time = received
            quality = server_time(quality)
        elif type(time) is not int or not EARLIEST_MS <= time <= received:
            leave(delivery)
            continue
        try:
            size = len(series)
            add_series(map(state.index_of, values))
        except KeyError:
            del series[size:]
            leave(delivery)
            continue
        add_values(values.values())
        add_time(time)
        add_received(received)
        add_quality(quality)
        add_count(len(values))
        identity.tokens -= 1
        last_seen[identity.id] = received
        if state is not identity:
            last_seen[state.id] = received
        take(delivery)
    return taken, rest
