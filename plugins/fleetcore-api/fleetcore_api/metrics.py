"""Metrics of the server for Prometheus (text format 0.0.4). Their cost does not grow with the number of devices."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from fleetcore.runtime.app import Fleet
from fleetcore.runtime.mirroring import Mirror
from fleetcore.runtime.status import room

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[Mapping[str, str], float]
#: Name, kind, meaning, and samples.
_Family = tuple[str, str, str, Sequence[Sample]]


async def text(fleet: Fleet) -> str:
    """The server's counters since its start, and its state."""
    tally, position = fleet.path.tally, await fleet.storage.position()
    size, dropped = await room(fleet), fleet.retention.dropped
    outcomes = ("stored", "duplicates", "conflicts", "refused")
    lines: list[str] = []
    families: Sequence[_Family] = (
        (
            "readings_total",
            "counter",
            "Readings by outcome.",
            [({"outcome": outcome}, getattr(tally, outcome)) for outcome in outcomes],
        ),
        ("messages_accepted_total", "counter", "Accepted messages.", [({}, fleet.path.accepted)]),
        (
            "messages_rejected_total",
            "counter",
            "Refused messages by protocol and code.",
            [
                ({"protocol": protocol, "code": code}, count)
                for (protocol, code), count in sorted(fleet.refusals.counts.items())
            ],
        ),
        ("queue_waiting", "gauge", "Messages waiting for their commit.", [({}, fleet.ingest.waiting)]),
        (
            "queue_refused_total",
            "counter",
            "Messages refused because the queue was full.",
            [({}, fleet.ingest.refused_full)],
        ),
        ("sessions", "gauge", "Open device sessions.", [({}, len(fleet.device_sessions))]),
        (
            "connections",
            "gauge",
            "Open connections by protocol.",
            [({"protocol": name}, item.connections()) for name, item in fleet.protocols.items()],
        ),
        (
            "listener_bound_total",
            "counter",
            "How often a listener reached one of its limits.",
            [
                ({"listener": name, "bound": bound}, count)
                for (name, bound), count in sorted(fleet.listening.reached.items())
            ],
        ),
        (
            "listener_connections",
            "gauge",
            "Accepted connections of a listener, including those without a first byte.",
            [({"listener": share.name}, share.open) for share in fleet.listening.shares],
        ),
        (
            "storage_bytes",
            "gauge",
            "Bytes of the store, by part.",
            [({"part": part}, taken) for part, taken in size.parts.items()],
        ),
        ("storage_free_bytes", "gauge", "Free bytes in the store, used before it grows.", [({}, size.free_bytes)]),
        (
            "storage_limit_bytes",
            "gauge",
            "Limit of the store in bytes; absent without a limit.",
            [] if size.limit_bytes is None else [({}, size.limit_bytes)],
        ),
        (
            "retention_dropped_total",
            "counter",
            "Readings dropped by retention, by kind, since the fleet was created.",
            [({"kind": "number"}, dropped.readings), ({"kind": "text"}, dropped.texts)],
        ),
        (
            "retention_freed_bytes_total",
            "counter",
            "Bytes of readings dropped by retention, since the fleet was created.",
            [({}, dropped.size_bytes)],
        ),
        ("feed_position", "gauge", "Position of the last commit.", [({}, position)]),
        (
            "consumer_lag",
            "gauge",
            "Commits that a consumer has not handled yet.",
            [({"consumer": consumer.name}, consumer.status.behind(position)) for consumer in fleet.consumers],
        ),
        (
            "consumer_failures_total",
            "counter",
            "Failures of a consumer.",
            [({"consumer": consumer.name}, consumer.status.failures) for consumer in fleet.consumers],
        ),
        *await _mirrors(fleet),
        (
            "plugin_counts_total",
            "counter",
            "Counters of plugins, by section and name.",
            [
                ({"component": component, "name": name}, count)
                for component, names in fleet.counts.snapshot().items()
                for name, count in names.items()
            ],
        ),
    )
    for name, kind, meaning, samples in families:
        lines += _family(f"fleetcore_{name}", kind, meaning, samples)
    return "\n".join(lines) + "\n"


async def _mirrors(fleet: Fleet) -> list[_Family]:
    """The state and the counters of mirrors."""
    overviews = {name: await mirror.overview() for name, mirror in fleet.mirrors.items()}
    gauges = (
        ("waiting", "Entities that a mirror still has to send."),
        ("lag_seconds", "How long the oldest waiting entity has waited."),
        ("held", "Entities at a hub."),
        ("invalid", "Entities that a hub refused."),
        ("lost", "Entities at a hub in part."),
        ("paused", "Paused entities."),
        ("removals_wait", "Entities whose removal waits for the next day's budget."),
    )
    found: list[_Family] = [
        (
            f"mirror_{gauge}",
            "gauge",
            meaning,
            [({"mirror": name}, getattr(item, gauge.replace("seconds", "s"))) for name, item in overviews.items()],
        )
        for gauge, meaning in gauges
    ]
    counted: tuple[tuple[str, str, str, Callable[[Mirror], Mapping[str, int]]], ...] = (
        ("state", "outcome", "Entities and calls of a mirror by outcome.", lambda item: item.sender.counts),
        ("throttled", "class", "Calls throttled by a hub, by class.", lambda item: item.pace.throttled),
        (
            "readings",
            "outcome",
            "Readings of a mirror by outcome.",
            lambda item: {} if item.readings is None else item.readings.counts,
        ),
        (
            "inbox",
            "outcome",
            "Messages from a hub by outcome.",
            lambda item: {} if item.inbox is None else item.inbox.counts,
        ),
    )
    for what, label, meaning, counts in counted:
        samples = [
            ({"mirror": name, label: key}, count)
            for name, mirror in fleet.mirrors.items()
            for key, count in sorted(counts(mirror).items())
        ]
        found.append((f"mirror_{what}_total", "counter", meaning, samples))
    return found


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> list[str]:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(item)}"' for key, item in labels.items())
        lines.append(f"{name}{{{inner}}} {value}" if inner else f"{name} {value}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
