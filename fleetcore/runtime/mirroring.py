"""Mirrors in fleet.toml: the engine's part of a section, and what sends and follows according to it."""

import functools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal

import attrs
from attrs import evolve, field, frozen, validators

from fleetcore.errors import ConfigError
from fleetcore.fleet.commands import Commands
from fleetcore.fleet.mirrors import Entities
from fleetcore.fleet.search import parts_of
from fleetcore.fleet.shared_state import PARTS, Part
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import CloudBackend, CloudUse
from fleetcore.interfaces.storage import Storage
from fleetcore.model.merge import Side
from fleetcore.model.mirror import CALLED, Facet
from fleetcore.pipeline.mirror.change_tracker import ChangeTracker, HomedPage, Watch
from fleetcore.pipeline.mirror.comparing import Comparing
from fleetcore.pipeline.mirror.engine import Mirror
from fleetcore.pipeline.mirror.inbox import Inbox
from fleetcore.pipeline.mirror.readings import ReadingRules, ReadingsSender
from fleetcore.pipeline.mirror.reconciling import Direction, Reconciling, Way
from fleetcore.pipeline.mirror.sender import StateSender
from fleetcore.pipeline.mirror.walk import Walk
from fleetcore.pipeline.selection import Selection
from fleetcore.query.parse import parse
from fleetcore.runtime.config import Config, Instance

What = Literal["registry", "twins", "groups", "jobs", "certificates"]

#: The side whose value counts if both changed it, unless the section says otherwise.
_WINS: Mapping[Part, Side] = {"desired": "cloud", "registry": "fleet"}
_RATE = validators.deep_mapping(validators.instance_of(str), validators.gt(0.0))


@frozen(kw_only=True)
class MirrorSection:
    """The keys of every ``[clouds.NAME]``; the rest belongs to its plugin.

    Attributes:
        mirror: the parts of the fleet's state that are sent; readings are sent by ``metrics``. ``certificates`` admit
            devices at the hub, and are revoked there even without ``delete``.
        where: a query; only the selected devices and their readings are sent.
        location: whether device positions are sent.
        direction: of ``desired`` (the desired state of devices) and ``registry`` (their names, models, tags and
            attributes): ``out``, ``in`` or ``both``.
        wins: for the same parts ``fleet`` or ``cloud``: whose value counts if both changed it; by default the cloud's
            for ``desired`` and the fleet's for ``registry``.
        poll_s: how often the hub is read for incoming changes.
        commands: names of commands that the hub may send to devices; ``["*"]`` for all.
        imports: whether entities that others created at the hub may be imported; they belong to this fleet afterwards.
        delete: whether entities that the fleet no longer has are removed from the hub, if this fleet created them.
        removals_per_day: the most removals in a day (UTC); further ones wait.
        write_every_s: the minimum interval between two writes of an entity; changes in between are one write.
        rates: calls per second by class of call, replacing the plugin's.
        metrics: the metrics whose readings are sent, none by default; ``["*"]`` for all.
        deadband: metric → the minimum difference from the value sent last.
        keep_readings_s: readings that could not be sent for this long are dropped and counted.
        messages_per_day: the most readings sent in a day (UTC).
        timeout_s: the time limit of a batch.
    """

    mirror: list[What] = field(factory=lambda: ["registry", "twins"])
    where: str | None = None
    location: bool = False
    direction: dict[Part, Direction] = field(factory=dict)
    wins: dict[Part, Side] = field(factory=dict)
    poll_s: float = field(default=300.0, validator=validators.ge(1.0))
    commands: list[str] = field(factory=list)
    imports: bool = False
    delete: bool = False
    removals_per_day: int = field(default=1000, validator=validators.ge(0))
    write_every_s: float = field(default=5.0, validator=validators.ge(0.0))
    rates: dict[str, float] = field(factory=dict, validator=_RATE)
    metrics: list[str] = field(factory=list)
    deadband: dict[str, float] = field(factory=dict)
    keep_readings_s: float = field(default=86_400.0, validator=validators.gt(0.0))
    messages_per_day: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    timeout_s: float = field(default=60.0, validator=validators.gt(0.0))

    def __attrs_post_init__(self) -> None:
        if missing := set(self.ways) - self.facets:
            names = sorted(CALLED[facet] for facet in missing)
            raise ConfigError(
                "direction names a part that is not mirrored", remedy=f"Add {' and '.join(names)} to mirror"
            )
        unsent = set() if "*" in self.metrics else self.deadband.keys() - {"*", *self.metrics}
        if unsent:
            names = sorted(unsent)
            raise ConfigError(
                f"deadband names {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} not sent",
                remedy=f"Add {', '.join(names)} to metrics",
            )

    @property
    def facets(self) -> frozenset[Facet]:
        """The mirrored facets."""
        return frozenset(facet for facet, called in CALLED.items() if called in self.mirror)

    @property
    def ways(self) -> Mapping[Facet, Way]:
        """The facets with incoming changes."""
        found: dict[Facet, Way] = {}
        for part, direction in self.direction.items():
            if direction != "out":
                found[PARTS[part]] = Way(direction=direction, wins=self.wins.get(part, _WINS[part]))
        return found

    @property
    def use(self) -> CloudUse:
        """What such a mirror does with its hub."""
        return CloudUse(
            sends=self.facets,
            reads=frozenset(self.ways),
            readings=bool(self.metrics),
            deletes=self.delete,
            commands=bool(self.commands),
            imports=self.imports,
        )


def split(config: Config, instance: Instance) -> tuple[MirrorSection, Instance]:
    """The engine's part of a section, and the plugin's part. Raises ConfigError."""
    own = {member.name for member in attrs.fields(MirrorSection)}
    common = {name: value for name, value in instance.table.items() if name in own}
    section = config.structure(MirrorSection, common, "clouds", instance.name)
    rest = {name: value for name, value in instance.table.items() if name not in own}
    return section, evolve(instance, table=rest)


#: Whether a device receives a hub's commands there, or did when one was given (ms since the epoch, or None).
HeardAt = Callable[[str, str, int | None], Awaitable[bool]]


def mirror_of(
    name: str,
    section: MirrorSection,
    opener: Callable[[], AbstractAsyncContextManager[CloudBackend]],
    entities: Entities,
    twins: Twins,
    commands: Commands,
    heard_at: HeardAt,
    selection: Selection | None,
    storage: Storage,
    clock: Clock,
) -> Mirror:
    """The mirror of a section, not yet running."""
    actor = f"mirror/{name}"
    report = functools.partial(twins.take_report, actor=actor)
    reconciling = Reconciling(section.ways, entities.body, entities.taker(actor), homed=entities.at_hub, report=report)
    sender = StateSender(
        name,
        storage,
        clock,
        entities.bodies,
        facets=section.facets,
        reconciling=reconciling,
        deletes=section.delete,
        deletes_per_day=section.removals_per_day,
        every_s=section.write_every_s,
    )
    walk = Walk(section.facets, entities.page)
    comes_in = bool(section.ways or section.commands)
    inbox = (
        Inbox(
            sender,
            commands,
            storage,
            names=frozenset(section.commands),
            mirrored=entities.body,
            heard_at_hub=functools.partial(heard_at, name),
        )
        if comes_in
        else None
    )
    mirror = Mirror(
        name,
        opener,
        sender,
        ChangeTracker(sender, walk, storage, clock, watch=_watch(section, selection, entities.homed)),
        Comparing(walk, entities.bodies, sender, entities.at_hub),
        storage,
        clock,
        inbox=inbox,
        use=section.use,
        rates=section.rates,
        timeout_s=section.timeout_s,
    )
    if section.metrics:
        rules = ReadingRules(
            metrics=frozenset(section.metrics),
            deadband=section.deadband,
            ttl_s=section.keep_readings_s,
            per_day=section.messages_per_day,
        )

        async def devices_at(position: int) -> None:
            await mirror.tracker.catch_up(position)
            await sender.caught_up()

        mirror.readings = ReadingsSender(
            name,
            mirror.cloud,
            rules,
            storage,
            clock,
            selection=selection,
            devices_at=devices_at if "registry" in section.mirror else None,
            timeout_s=section.timeout_s,
        )
    return mirror


def _watch(section: MirrorSection, selection: Selection | None, homed: HomedPage) -> Watch:
    polled = set(section.ways)
    if selection is not None and selection.is_timed:
        polled |= section.facets
    return Watch(
        located=section.location,
        parts=frozenset() if section.where is None else parts_of(parse(section.where)),
        polled=frozenset(polled),
        homed=homed if "twin" in section.facets - polled else None,
        every_s=section.poll_s,
    )


__all__ = ["Mirror", "MirrorSection", "mirror_of", "split"]
