"""Metrics of the server for Prometheus (text format 0.0.4). Nothing here costs more with more devices."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from fleetcore.runtime.app import Fleet
from fleetcore.runtime.mirroring import Mirror
from fleetcore.runtime.status import room

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[Mapping[str, str], float]
#: A name, its kind, what it means, and its samples.
_Family = tuple[str, str, str, Sequence[Sample]]


async def text(fleet: Fleet) -> str:
    """What the server did since it started, and how it stands."""
    tally, position = fleet.path.tally, await fleet.storage.position()
    size, dropped = await room(fleet), fleet.retention.dropped
    outcomes = ("stored", "duplicates", "conflicts", "refused")
    lines: list[str] = []
    families: Sequence[_Family] = (
        (
            "readings_total",
            "counter",
            "Readings by what became of them.",
            [({"outcome": outcome}, getattr(tally, outcome)) for outcome in outcomes],
        ),
        ("messages_accepted_total", "counter", "Messages that were accepted.", [({}, fleet.path.accepted)]),
        (
            "messages_rejected_total",
            "counter",
            "Messages that were refused, by protocol and code.",
            [
                ({"protocol": protocol, "code": code}, count)
                for (protocol, code), count in sorted(fleet.refusals.counts.items())
            ],
        ),
        ("queue_waiting", "gauge", "Messages that wait for their commit.", [({}, fleet.ingest.waiting)]),
        ("queue_refused_total", "counter", "Messages refused by a full queue.", [({}, fleet.ingest.refused_full)]),
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
            "How often a listener reached one of its bounds.",
            [
                ({"listener": name, "bound": bound}, count)
                for (name, bound), count in sorted(fleet.listening.reached.items())
            ],
        ),
        (
            "listener_connections",
            "gauge",
            "Connections that a listener has accepted, those that have not spoken yet too.",
            [({"listener": share.name}, share.open) for share in fleet.listening.shares],
        ),
        (
            "storage_bytes",
            "gauge",
            "Bytes that the store takes, by part.",
            [({"part": part}, taken) for part, taken in size.parts.items()],
        ),
        ("storage_free_bytes", "gauge", "Bytes in the store that new content takes first.", [({}, size.free_bytes)]),
        (
            "storage_limit_bytes",
            "gauge",
            "Bytes that all parts of the store may take together; absent without a limit.",
            [] if size.limit_bytes is None else [({}, size.limit_bytes)],
        ),
        (
            "retention_dropped_total",
            "counter",
            "Readings that were older than their period and are gone, by kind, since the fleet was made.",
            [({"kind": "number"}, dropped.readings), ({"kind": "text"}, dropped.texts)],
        ),
        (
            "retention_freed_bytes_total",
            "counter",
            "Bytes that dropped readings took, since the fleet was made.",
            [({}, dropped.size_bytes)],
        ),
        ("feed_position", "gauge", "Position of the last commit.", [({}, position)]),
        (
            "consumer_lag",
            "gauge",
            "Feed positions that a consumer has not seen.",
            [
                ({"consumer": consumer.name}, max(0, position - consumer.status.position))
                for consumer in fleet.consumers
            ],
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
            "What plugins count, by the section and the name that they give it.",
            [
                ({"piece": piece, "name": name}, count)
                for piece, names in fleet.counts.snapshot().items()
                for name, count in names.items()
            ],
        ),
    )
    for name, kind, meaning, samples in families:
        lines += _family(f"fleetcore_{name}", kind, meaning, samples)
    return "\n".join(lines) + "\n"


async def _mirrors(fleet: Fleet) -> list[_Family]:
    """How the mirrors stand, and what they did."""
    overviews = {name: await mirror.overview() for name, mirror in fleet.mirrors.items()}
    gauges = (
        ("waiting", "Entities that a mirror has yet to bring to its hub."),
        ("lag_seconds", "For how long the entity has waited that has waited longest."),
        ("held", "Entities that a hub holds."),
        ("invalid", "Entities that cannot be brought in step."),
        ("lost", "Entities that a hub holds in part."),
        ("paused", "Entities that are left as they are."),
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
        ("state", "outcome", "Entities and calls of a mirror by what became of them.", lambda item: item.lane.counts),
        ("throttled", "class", "Calls that a hub throttled, by class.", lambda item: item.pace.throttled),
        (
            "readings",
            "outcome",
            "Readings of a mirror by what became of them.",
            lambda item: {} if item.readings is None else item.readings.counts,
        ),
        (
            "inbox",
            "outcome",
            "What came from a hub by what became of it.",
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
