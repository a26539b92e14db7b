"""Mirrors as fleet.toml has them: what of a section is the engine's, and the lanes that follow from it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal

import attrs
from attrs import evolve, field, frozen, validators

from fleetcore.fleet.mirrors import Entities
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import CloudBackend
from fleetcore.interfaces.storage import Storage
from fleetcore.model.mirror import Facet
from fleetcore.pipeline.mirror.comparing import Comparing
from fleetcore.pipeline.mirror.engine import Mirror
from fleetcore.pipeline.mirror.lane import StateLane
from fleetcore.pipeline.mirror.looking import Looking
from fleetcore.pipeline.mirror.readings import ReadingRules, ReadingsLane
from fleetcore.pipeline.mirror.walk import Walk
from fleetcore.pipeline.selection import Selection
from fleetcore.runtime.config import Config, Instance

What = Literal["registry", "twins", "groups", "jobs", "telemetry"]

#: What a mirror's settings call the facets.
_CALLED: Mapping[str, Facet] = {"registry": "registry", "twins": "twin", "groups": "group", "jobs": "job"}


@frozen(kw_only=True)
class MirrorSection:
    """What every ``[clouds.NAME]`` may say; the rest is its plugin's.

    Attributes:
        mirror: what is sent.
        where: a query: devices that it selects, and their readings, alone are sent.
        location: whether positions of devices are sent.
        delete: whether what is gone from the fleet is removed from the hub, of what this fleet has made there.
        rates: calls a second by class of call, over the plugin's own.
        metrics: the metrics whose readings are sent; ``["*"]`` for all.
        deadband: metric → by how much a value must differ from the one that was sent last.
        keep_readings_s: readings that could not be sent for as long are dropped, and counted.
        messages_per_day: at most so many readings a day.
        timeout_s: how long the hub may take for a batch.
    """

    mirror: list[What] = field(factory=lambda: ["registry", "twins", "telemetry"])
    where: str | None = None
    location: bool = False
    delete: bool = False
    rates: dict[str, float] = field(factory=dict)
    metrics: list[str] = field(factory=lambda: ["*"])
    deadband: dict[str, float] = field(factory=dict)
    keep_readings_s: float = field(default=86_400.0, validator=validators.gt(0.0))
    messages_per_day: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    timeout_s: float = field(default=60.0, validator=validators.gt(0.0))


def split(config: Config, instance: Instance) -> tuple[MirrorSection, Instance]:
    """The engine's part of a section, and the section as its plugin gets it. Raises ConfigError."""
    own = {member.name for member in attrs.fields(MirrorSection)}
    common = {name: value for name, value in instance.table.items() if name in own}
    section = config.structure(MirrorSection, common, "clouds", instance.name)
    rest = {name: value for name, value in instance.table.items() if name not in own}
    return section, evolve(instance, table=rest)


def mirror_of(
    name: str,
    section: MirrorSection,
    opener: Callable[[], AbstractAsyncContextManager[CloudBackend]],
    entities: Entities,
    selection: Selection | None,
    storage: Storage,
    clock: Clock,
) -> Mirror:
    """The mirror of a section, not running yet."""
    lane = StateLane(name, storage, clock, entities.body, deletes=section.delete, timeout_s=section.timeout_s)
    facets = frozenset(_CALLED[what] for what in section.mirror if what in _CALLED)
    walk = Walk(facets, entities.page)
    looking = Looking(lane, walk, storage, clock, located=section.location)
    comparing = Comparing(name, walk, entities.body, lane.kept, timeout_s=section.timeout_s)
    mirror = Mirror(name, opener, lane, looking, comparing, storage, clock, rates=section.rates)
    if "telemetry" in section.mirror:
        rules = ReadingRules(
            metrics=frozenset(section.metrics),
            deadband=section.deadband,
            ttl_s=section.keep_readings_s,
            per_day=section.messages_per_day,
        )
        mirror.readings = ReadingsLane(
            name, mirror.cloud, rules, storage, clock, selection=selection, timeout_s=section.timeout_s
        )
    return mirror


__all__ = ["Mirror", "MirrorSection", "mirror_of", "split"]
