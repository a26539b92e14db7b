"""A fleet, open: storage, capabilities, data path, consumers and protocols wired together from a configuration."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from attrs import evolve, frozen

from fleetcore.errors import ConfigError, FleetError, NotReady, PluginError, Refused
from fleetcore.fleet.adopting import Adopting
from fleetcore.fleet.anomalies import AnomalyDetector
from fleetcore.fleet.audit import AuditLog
from fleetcore.fleet.bulk_commands import BulkCommands
from fleetcore.fleet.campaigns import Campaigns
from fleetcore.fleet.commands import Commands
from fleetcore.fleet.cutover_offers import CutoverOffers
from fleetcore.fleet.cutovers import Cutovers
from fleetcore.fleet.deltas import Deltas
from fleetcore.fleet.desired_functions import DesiredFunctions
from fleetcore.fleet.diagnosis import Diagnosis
from fleetcore.fleet.documents import Documents
from fleetcore.fleet.edge import EdgeComputing
from fleetcore.fleet.eligibility import EligibilityJudge
from fleetcore.fleet.erasing import Erasing
from fleetcore.fleet.expiry_forecast import ExpiryForecast
from fleetcore.fleet.freezes import Freezes
from fleetcore.fleet.gate_facts import FactsReader
from fleetcore.fleet.groups import Groups
from fleetcore.fleet.health import FleetHealth
from fleetcore.fleet.health_gates import HealthGates
from fleetcore.fleet.importing import Importing
from fleetcore.fleet.lifecycles import Lifecycles
from fleetcore.fleet.map_reduce import MapReduce
from fleetcore.fleet.mirrors import Entities
from fleetcore.fleet.operations import Operations
from fleetcore.fleet.operators import Operators
from fleetcore.fleet.overview import Overview
from fleetcore.fleet.passed_offers import PassedOffers
from fleetcore.fleet.plans import Plans
from fleetcore.fleet.process_state.columns import RegistryColumns
from fleetcore.fleet.process_state.denials import Denials
from fleetcore.fleet.process_state.presence import PresenceBoard
from fleetcore.fleet.registry import GATEWAY, Registry
from fleetcore.fleet.releases import Releases
from fleetcore.fleet.renewals import Renewals
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.search import Search
from fleetcore.fleet.security import FleetTls, SecurityManager
from fleetcore.fleet.telemetry import Telemetry
from fleetcore.fleet.time_service import TimeService
from fleetcore.fleet.trust_delivery import TrustDelivery
from fleetcore.fleet.trust_root import TrustRoot
from fleetcore.fleet.twins import Twins
from fleetcore.fleet.update_policy import UpdatePolicy
from fleetcore.fleet.updates import Updates
from fleetcore.fleet.uploads import Uploads
from fleetcore.interfaces.boundary import in_a_line, plugin_code
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.codec import Codec
from fleetcore.interfaces.ingest import Holder
from fleetcore.interfaces.protocol import ProtocolAdapter
from fleetcore.interfaces.provider import Context, Kind, Provider
from fleetcore.interfaces.storage import Storage
from fleetcore.listening.budget import Budget
from fleetcore.model.command import Command
from fleetcore.model.device import Lifecycle
from fleetcore.model.firmware import Execution
from fleetcore.model.gate import Observation
from fleetcore.model.names import check_metric
from fleetcore.pipeline.bulk import Bulk
from fleetcore.pipeline.component_state import ComponentState
from fleetcore.pipeline.consumer import CursorTask
from fleetcore.pipeline.dead_letters import DeadLetters
from fleetcore.pipeline.decode import Codecs
from fleetcore.pipeline.detect import Detection, Scope
from fleetcore.pipeline.handlers import Handlers
from fleetcore.pipeline.layering import LayerKeeper
from fleetcore.pipeline.left_behind import LeftBehind
from fleetcore.pipeline.membership import MembershipKeeper
from fleetcore.pipeline.mirror.engine import Mirror
from fleetcore.pipeline.mirror.importing import CloudImports
from fleetcore.pipeline.mirror.repair import Repair
from fleetcore.pipeline.notify import Notification
from fleetcore.pipeline.path import DataPath
from fleetcore.pipeline.rate import RateLimit
from fleetcore.pipeline.receive import Delivery, Receiver
from fleetcore.pipeline.refusals import Refusals
from fleetcore.pipeline.retention import Retention
from fleetcore.pipeline.seal_audit import AuditSealer
from fleetcore.pipeline.selection import Selection
from fleetcore.query.ast import Exists
from fleetcore.query.parse import parse
from fleetcore.runtime import identity
from fleetcore.runtime.abandoning import end_within
from fleetcore.runtime.admissions import RequiredAdmission
from fleetcore.runtime.clock import SystemClock
from fleetcore.runtime.config import Config, Instance, secret
from fleetcore.runtime.core_keys import CORE_KEYS
from fleetcore.runtime.counts import Counts
from fleetcore.runtime.hub_reads import held_at, reported_at
from fleetcore.runtime.lease import Lease
from fleetcore.runtime.mirroring import mirror_of, split
from fleetcore.runtime.opening import HEED_S, Offered, Opening, open_in_time
from fleetcore.runtime.plane.claims import ClaimSessions
from fleetcore.runtime.plane.downlinks import Downlinks
from fleetcore.runtime.plane.downloads import Downloads
from fleetcore.runtime.plane.local_sessions import LocalSessions
from fleetcore.runtime.plane.plane import Plane
from fleetcore.runtime.plane.sessions import Sessions
from fleetcore.runtime.plane.waiting import Waiting
from fleetcore.runtime.plugins import BUILTIN, PluginHost
from fleetcore.runtime.readiness import Parts, Readiness
from fleetcore.runtime.supervise import Supervisor
from fleetcore.runtime.upgrade import Upgrade
from fleetcore.runtime.watchdog import Watchdog
from fleetcore.wire.endpoints import reachable

_log = logging.getLogger(__name__)

_TICK_S, _FLUSH_S, _MAINTAIN_S, _RENEW_S, _GROUPS_S = 1.0, 30.0, 10.0, 3600.0, 60.0
_LEFT_S = 3600.0
_UPLOADS_S = 600.0
#: The last use of a token is recorded to the minute.
_TOKENS_S = 60.0
#: Expiry is less urgent than revocation, and the check visits every open session.
_CREDENTIALS_S = 60.0
#: 10 s together: answering what was read, and saving the consumers' state.
_DRAIN_S, _KEEP_S = 8.0, 2.0
#: The longest time between two attempts to open a protocol that is not ready.
_LATE_S = 30.0
_CHECKPOINTS = "audit-checkpoints.jsonl"
#: Kinds whose instances are consumers of the feed.
_CONSUMERS = frozenset({"detectors", "notifiers"})


@frozen(kw_only=True)
class OpenProtocol:
    """An open protocol, and its offer and section."""

    name: str
    kind: str
    adapter: ProtocolAdapter
    provider: Provider[ProtocolAdapter]

    @property
    def listens(self) -> bool:
        """Whether devices connect to its endpoints, as the adapter reports; False if that fails."""
        try:
            with plugin_code(f"protocol {self.name!r}"):
                return bool(self.adapter.listens)
        except PluginError:
            return False

    def endpoints(self) -> Sequence[str]:
        """The URLs that the adapter reports; none if that fails."""
        try:
            with plugin_code(f"protocol {self.name!r}"):
                return [str(url) for url in self.adapter.endpoints]
        except Exception as error:
            _log.error("Protocol %s does not report its endpoints: %s", self.name, in_a_line(error))
            return []

    def connections(self) -> int:
        """The number of connections that the adapter reports; 0 if that fails."""
        try:
            with plugin_code(f"protocol {self.name!r}"):
                return int(self.adapter.connections)
        except Exception:
            return 0

    def trouble(self) -> str:
        """The problem that the adapter reports, or empty; a failure to report is a problem too."""
        try:
            with plugin_code(f"protocol {self.name!r}"):
                return self.adapter.trouble
        except Exception as error:
            why = error.message if isinstance(error, PluginError) else in_a_line(error)
            return f"Its adapter does not report its state: {why}"

    async def drain(self) -> None:
        """Drains the adapter; logs a failure."""
        try:
            with plugin_code(f"protocol {self.name!r}"):
                await self.adapter.drain()
        except Exception as error:
            _log.error("Protocol %s did not drain: %s", self.name, in_a_line(error))


class Fleet:
    """Everything of one fleet. Created by :meth:`open`; the attributes are its capabilities."""

    def __init__(
        self,
        config: Config,
        host: PluginHost,
        clock: Clock,
        storage: Storage,
        stack: AsyncExitStack,
        counts: Counts,
    ) -> None:
        self.config, self.host, self.clock, self.storage, self._stack = config, host, clock, storage, stack
        #: The counters of plugins.
        self.counts = counts
        self.limits = config.limits
        #: The connection budget of all listeners.
        self.listening = Budget(config.listeners, now_s=clock.monotonic_s)
        #: The fleet's id; empty in memory.
        self.id = ""
        #: The findings of the last check of the stored data.
        self.problems: tuple[str, ...] = ()
        #: Configured protocols that are not open yet, with the reason.
        self.late: dict[str, str] = {}
        #: Counters that the last check corrected, a sentence each.
        self.recounted: tuple[str, ...] = ()
        self.supervisor = Supervisor(clock)
        self.readiness = Readiness(
            Parts(
                storage=storage,
                clock=clock,
                supervisor=self.supervisor,
                consumers=lambda: self.consumers,
                listeners=self._listeners,
            )
        )
        self.devices = Registry(storage, clock, self.limits)
        self.presence = PresenceBoard(storage, clock)
        self.twins = Twins(storage, clock, self.limits)
        self.devices.on_removal(self.twins.forget)
        columns = RegistryColumns(storage)
        self.devices.on_change(columns.changed)
        self.devices.on_removal(columns.removed)
        self.search = Search(Documents(storage, self.presence), clock, columns)
        self.trust_root = TrustRoot(storage, clock)
        self.releases = Releases(storage, clock, self.trust_root)
        firmware = config.firmware
        self.update_policy = UpdatePolicy(
            clock, self.trust_root, allow_unsigned=firmware.allow_unsigned, hours=firmware.assignment_hours
        )
        self.freezes = Freezes(storage, clock)
        self.eligibility = EligibilityJudge(self.search, self.freezes, clock)
        self.functions = DesiredFunctions(storage, clock, self.twins, self.devices, self.trust_root)
        self.updates = Updates(storage, clock, self.update_policy, self.eligibility, self.functions)
        self.passed_offers = PassedOffers(storage, clock, self.update_policy, self.updates.tell)
        self.twins.on_reported(self.updates.reported)
        self.anomalies = AnomalyDetector(storage, clock, self.limits)
        facts = FactsReader(storage, self.presence, self.anomalies)
        self.health_gates = HealthGates(storage, clock, self.updates, self.devices, facts)
        self.campaigns = Campaigns(
            storage, clock, self.update_policy, self.updates, self.health_gates, self.search,
            self.releases, may_fetch=config.data is not None, approve_above=firmware.approve_above,
        )  # fmt: skip
        self.uploads = Uploads(storage, clock, firmware.upload_quota_bytes)
        self.deltas = Deltas(storage, clock)
        self.plans = Plans(self.campaigns, self.updates, self.update_policy, self.eligibility, clock)
        self.location = self.devices.locations
        self.dead_letters = DeadLetters(storage, clock)
        self.groups = Groups(storage, self.search, clock)
        self.twins.layers.groups_of = self.groups.outermost_first
        self.groups.uses.append(self.twins.layers.laid_on)
        self.operations = Operations(storage, clock)
        self.importing = Importing(storage, clock, self.devices, self.operations)
        self.audit = AuditLog(storage, None if config.data is None else config.data / _CHECKPOINTS)
        self.events = host.events()
        self.denials = Denials(storage, clock)
        self.operators = Operators(storage, self.search, clock)
        self.consumers: list[CursorTask] = []
        self.mirrors: dict[str, Mirror] = {}
        self.repair = Repair(self.mirrors, self.operations)
        adopting = Adopting(storage, self.devices, self.twins, self.groups)
        self.cloud_imports = CloudImports(self.mirrors, adopting, self.operations)
        self.left_behind = LeftBehind(storage, clock)
        self.retention = Retention(storage, clock, config.retention.periods)
        self.protocols: dict[str, OpenProtocol] = {}
        self.services: dict[str, object] = {}
        #: What keeps messages for later, or None.
        self.holder: Holder | None = None
        self.tls: FleetTls | None = None
        self._lease: Lease | None = None
        self.admissions = [
            RequiredAdmission(instance.name, instance.kind, self._prepare("admission", instance), clock)
            for instance in config.admission
        ]

    @classmethod
    async def open(
        cls,
        config: Config,
        *,
        host: PluginHost | None = None,
        clock: Clock | None = None,
        create: bool | None = None,
        adoption: identity.Adoption | None = None,
    ) -> "Fleet":
        """Opens a fleet without its network: the store, the capabilities, the data path, the detectors.

        Args:
            create: whether to create a new fleet if it is missing: see :func:`~fleetcore.runtime.identity.is_new`.
            adoption: which missing parts of a fleet to create.

        Raises ConfigError, DataFolderInUse, StorageError; everything opened before the error is closed again.
        """
        parts, new, lease = None, True, None
        if config.data is not None:
            # Before the lease, which creates a file: nothing is created in a folder without a fleet.
            identity.is_new(identity.look(config), create=create, adoption=adoption)
        if host is None:
            with _at(config, "fleet", "plugins"):
                host = PluginHost.of(config)
        clock = clock or SystemClock()
        async with AsyncExitStack() as stack:
            watchdog = Watchdog()
            watchdog.start()
            stack.callback(watchdog.stop)
            if config.data is not None:
                lease = stack.enter_context(await asyncio.to_thread(Lease.take, config.data))
                # Another process may have created or removed something until now.
                parts = identity.look(config)
                new = identity.is_new(parts, create=create, adoption=adoption)
                if new:
                    parts = identity.begin(parts)
            made_anew = adoption or identity.Adoption()
            counts = Counts()
            context = Context(
                name=config.storage.kind,
                fleet=config.fleet.name,
                clock=clock,
                logger=logging.getLogger("fleetcore.plugin.storage"),
                secret=secret,
                limits=config.limits,
                data=config.data,
                create=new or made_anew.empty_store,
                count=counts.of("storage"),
                lease=functools.partial(_leased, lease),
            )
            offered = _offered(config, host, "storage", config.storage, context)
            with _at(config, "storage"):
                manager, storage = await open_in_time(offered, clock)
            stack.push_async_exit(manager)
            fleet = cls(config, host, clock, storage, stack, counts)
            fleet._lease = lease
            # If opening fails, the tasks end before the store that they use.
            stack.push_async_callback(fleet.supervisor.close)
            if parts is not None:
                fleet.id = await identity.agreed(parts, storage, new=new, adoption=adoption)
            await fleet._open_parts(new=new, new_ca=new or made_anew.new_ca)
            await fleet._open_path()
            if parts is not None and (new or adoption is not None or parts.has_marker):
                identity.finish(parts, fleet.id)
            fleet._stack = stack.pop_all()
            return fleet
        raise AssertionError("unreachable: the block returns or raises")

    def _context(self, name: str, kind: Kind = "services") -> Context:
        return Context(
            name=name,
            fleet=self.config.fleet.name,
            fleet_id=self.id,
            clock=self.clock,
            logger=logging.getLogger(f"fleetcore.plugin.{name}"),
            secret=secret,
            limits=self.config.limits,
            data=self.config.data,
            tls=self.tls,
            count=self.counts.of(f"{kind}.{name}"),
            listening=self.listening,
        )

    async def _open_parts(self, *, new: bool, new_ca: bool) -> None:
        self.audit.fleet = self.id
        with _at(self.config, "ca", "passphrase"):
            passphrase = secret(self.config.ca.passphrase) if self.config.ca.passphrase else None
        self.security = await SecurityManager.open(
            self.storage,
            self.clock,
            self.config.fleet.name,
            data=self.config.data,
            create=new_ca,
            identity=self.id,
            hosts=self.config.fleet.hosts,
            directory=self.devices,
            groups=self.groups,
            passphrase=passphrase,
            lifetime=timedelta(days=self.config.ca.device_days),
            grace=timedelta(days=self.config.ca.grace_expired_days),
            admissions=self.admissions,
        )
        self.tls = self.security.tls
        if self.tls is not None:
            # Only the reason is known of the peer: one row, with a count, for all equal failures in a second.
            self.tls.refused = lambda why: self.denials.note("unknown", "handshake", f"certificate_invalid: {why}")
        self.update_policy.sign = self.security.sign_payload
        self.commands = Commands(self.storage, self.clock, self.security.sign_command, self.search)
        self.devices.on_change(self.commands.device_changed)
        self.bulk_commands = BulkCommands(self.commands, self.operations, self.devices, self.search)
        self.expiry_forecast = ExpiryForecast(self.security, self.devices, self.groups, self.search)
        self.renewals = Renewals(
            self.security, self.twins, self.operations, self.devices, self.search, self.clock
        )  # fmt: skip
        offers = CutoverOffers(
            self.storage,
            self.clock,
            self.devices,
            self.twins,
            self.security,
            seen_at=lambda device: self.presence.of(device).last_seen,
            reported_at=functools.partial(reported_at, self.mirrors),
            held_at=functools.partial(held_at, self.mirrors),
        )
        self.cutovers = Cutovers(offers, self.operations)
        self.lifecycles = Lifecycles(self.devices, self.security, self.operations, self.commands, self.updates)

        async def retire(device: str, actor: str, reason: str) -> None:
            await self.lifecycles.move(device, Lifecycle.RETIRED, actor=actor, reason=reason)

        self.edge = EdgeComputing(
            self.storage, self.clock, self.devices, self.twins, self.functions, self.updates, self.campaigns,
            self.releases, self.search, retire,
            MapReduce(
                self.storage, self.clock, self.devices, self.search, self.commands, self.operations, self.presence
            ),
        )  # fmt: skip
        self.erasing = Erasing(
            self.storage,
            self.clock,
            self.devices,
            self.lifecycles,
            self.commands,
            self.updates,
            self.health_gates,
            self.presence,
            self.groups,
            self.twins,
            offers,
            self.dead_letters.forget,
            self.functions,
        )
        self.health = FleetHealth(
            self.devices,
            self.presence,
            self.twins,
            self.updates,
            self.anomalies,
            self.security.inventory,
            self.clock,
        )
        self.overview = Overview(self.search, self.presence, self.clock)
        self.diagnosis = Diagnosis(
            registry=self.devices,
            presence=self.presence,
            health=self.health,
            groups=self.groups,
            twins=self.twins,
            commands=self.commands,
            updates=self.updates,
            anomalies=self.anomalies,
            audit=self.audit,
            clock=self.clock,
        )
        codecs = [codec for name in self.host.offers("codecs") if (codec := await self._codec(name)) is not None]
        desired = {row: self.updates.before_desired(source) for row, source in self.twins.waiting.items()}
        firmware = {row: self.passed_offers.before_firmware(each) for row, each in self.updates.waiting.items()}
        sources = {**desired, **self.commands.waiting, **firmware}
        self.device_sessions = Sessions(
            storage=self.storage,
            clock=self.clock,
            limits=self.limits,
            registry=self.devices,
            presence=self.presence,
            security=self.security,
            denials=self.denials,
        )
        waiting = Waiting(self.devices, self.device_sessions, sources)
        self.downlinks = Downlinks(
            registry=self.devices,
            twins=self.twins,
            commands=self.commands,
            updates=self.updates,
            sessions=self.device_sessions,
            sources=sources,
            changed=waiting.changed,
            presence=self.presence,
        )
        self.device_sessions.on_first_message(self._activate)
        self.presence.on_online(self.downlinks.came_back)
        self.refusals = Refusals(self.dead_letters.add)
        self.handlers = Handlers(self.limits.json_depth)
        self.handlers.on_said(waiting.forget)
        for part in (
            self.twins, self.commands, self.location, self.anomalies, self.presence, self.edge, self.security,
            TimeService(self.clock), waiting,
        ):  # fmt: skip
            self.handlers.add(part.handlers)
        self.handlers.add_joint(self.passed_offers.before_reports(self.updates.handlers))
        self.path = DataPath(
            self.storage,
            Codecs(codecs),
            self.device_sessions,
            self.handlers,
            self.clock,
            self.limits,
            self.refusals,
        )
        self.ingest = Receiver(self.limits, self.clock, self._process, self.refusals)
        self.plane = Plane(
            storage=self.storage,
            sessions=self.device_sessions,
            handlers=self.handlers,
            downlinks=self.downlinks,
            waiting=waiting,
            claims=ClaimSessions(self.security, self.denials, self.handlers, self.refusals),
            refusals=self.refusals,
            ingest=self.ingest,
            security=self.security,
            updates=self.updates,
            functions=self.functions,
            passed_offers=self.passed_offers,
            rate=RateLimit(self.clock, self.limits),
            downloads=Downloads(
                self.clock, at_once=self.config.firmware.downloads_at_once,
                bytes_per_s=self.config.firmware.download_bytes_per_s,
            ),
        )  # fmt: skip
        self.bulk = Bulk(self.storage, self.clock, self.limits)
        self.telemetry = Telemetry(self.storage, self.clock, self.ingest)
        self.sessions = LocalSessions(self.plane)
        await self._upgrade().run(new=new)
        await self.presence.load()
        await self.groups.load()
        await self.twins.layers.load()
        await self.trust_root.load()
        # They change desired state, which has the layers.
        await self.updates.load()
        await self.campaigns.load()
        self.security.rotation.delivery = TrustDelivery(self.twins)
        await self.security.settle_cas(starting=True)
        await self.dead_letters.load()
        await self.passed_offers.load()

    @property
    def counted(self) -> tuple[Repository[Command], Repository[Execution], Repository[Observation]]:
        """The records whose changes also change counters."""
        return self.commands.records, self.campaigns.executions, self.health_gates.records

    def _upgrade(self) -> Upgrade:
        counted = self.counted
        every = (
            *counted,
            self.campaigns.records,
            self.operations.records,
            self.anomalies.records,
            self.groups.membership_records,
            self.releases.records,
        )
        return Upgrade(
            storage=self.storage,
            clock=self.clock,
            commands=self.commands,
            reindexed={**dict.fromkeys(every), self.devices.records: Exists(("attributes", GATEWAY))},
            counted=counted,
        )

    async def _open_path(self) -> None:
        self.supervisor.keep("data path", self.ingest.run)
        self.supervisor.every("command clocks", _TICK_S, self._tick)
        self.supervisor.every("flush", _FLUSH_S, self._flush)
        self.supervisor.every("storage maintenance", _MAINTAIN_S, self._maintain)
        self.supervisor.every("unfinished uploads", _UPLOADS_S, self.uploads.tick)
        self.supervisor.every("cursors without a part", _LEFT_S, self._look_behind)
        await self._open_retention()
        self.supervisor.every("lease on the data folder", _MAINTAIN_S, self._mend_lease)
        self.supervisor.every("certificate renewal", _RENEW_S, self._renew)
        self.supervisor.every("ended credentials", _CREDENTIALS_S, self._end_stale)
        self.supervisor.every("group clocks", _GROUPS_S, self.groups.tick)
        self.supervisor.every("operations", _TICK_S, self.operations.tick)
        self.supervisor.keep("imports", self.importing.run)
        self.supervisor.every("denials", _TICK_S, self.denials.flush)
        self.supervisor.every("use of tokens", _TOKENS_S, self.operators.flush)
        sign, file = self.security.sign_payload, self.audit.checkpoints
        signer = None if file is None else sign
        await self.consume(AuditSealer(self.storage, self.clock, self.events, signer, file, self.id))
        await self.consume(MembershipKeeper(self.storage, self.groups, self.clock))
        await self.consume(LayerKeeper(self.storage, self.twins, self.groups, self.devices, self.clock))
        for instance in self.config.detectors:
            await self.consume(self._detection(instance))
        for instance in self.config.notifiers:
            await self.consume(self._notification(instance))
        for instance in self.config.clouds:
            await self._open_mirror(instance)
        await self._look_behind()
        for admission in self.admissions:
            self.supervisor.keep(f"admission {admission.name}", admission.run)

    async def _open_retention(self) -> None:
        await self.retention.load()
        if not self.retention.periods.is_on:
            return
        if getattr(type(self.storage), "expire", None) is Storage.expire:
            raise ConfigError(
                f"The store {self.config.storage.kind!r} cannot drop readings by age",
                file=self.config.file,
                line=self.config.line_of("retention"),
                remedy="Remove [retention], and use the store's own means",
            )
        self.supervisor.every("retention", self.retention.every_s, self.retention.run)

    async def consume(self, consumer: CursorTask) -> None:
        """Starts a consumer of the feed, and keeps it running until the fleet closes."""
        await consumer.start()
        self.consumers.append(consumer)
        self.supervisor.keep(consumer.name, consumer.run)

    def _kept(self, kind: Kind, instance: Instance) -> ComponentState:
        return ComponentState(self.storage, f"{kind}.{instance.name}", with_cursor=kind in _CONSUMERS)

    def _prepare(
        self, kind: Kind, instance: Instance, *more: object, kept: ComponentState | None = None
    ) -> Callable[[], AbstractAsyncContextManager[Any]]:
        """The opener of an instance; if its plugin failed to load, each attempt says so.

        Raises ConfigError for an invalid section.
        """
        find: Callable[[], Offered]
        try:
            # The section is checked now; the context has TLS once the CA is open.
            _offered(self.config, self.host, kind, instance, self._context(instance.name, kind))
        except PluginError as error:
            find = functools.partial(_raise, error)
        else:

            def find() -> Offered:
                return _offered(self.config, self.host, kind, instance, self._context(instance.name, kind), more)

        kept = kept or self._kept(kind, instance)
        return functools.partial(Opening, find, self.clock, kept)

    async def _enter(self, kind: Kind, instance: Instance, *more: object) -> Any:
        with _at(self.config, kind, instance.name):
            return await self._stack.enter_async_context(self._prepare(kind, instance, *more)())

    async def _codec(self, name: str) -> Codec | None:
        """An open codec, or None if its plugin fails: the other formats still work."""
        try:
            codec: Codec = await self._enter("codecs", Instance(name=name, kind=name, table={}))
            with plugin_code(f"codec {name!r}"):
                types: object = codec.media_types
            if isinstance(types, str) or not all(isinstance(item, str) for item in cast("Sequence[object]", types)):
                raise PluginError(f"The media_types of codec {name!r} must be a list of text")
        except Exception as error:
            plugin = self.host.plugin_of("codecs", name)
            if plugin == BUILTIN:
                raise
            self.host.failed(plugin, f"codec {name!r}", error)
            return None
        return codec

    def _detection(self, instance: Instance) -> Detection:
        table = dict(instance.table)
        metrics = table.pop("metrics", [])
        if not isinstance(metrics, list) or not all(isinstance(metric, str) for metric in metrics):
            raise ConfigError(
                f"[detectors.{instance.name}] metrics must be a list of metric names",
                file=self.config.file,
                line=self.config.line_of("detectors", instance.name, "metrics"),
            )
        with _at(self.config, "detectors", instance.name, "metrics"):
            for metric in metrics:
                check_metric(metric)
        selection = self._selection("detectors", instance, table.pop("where", None))
        kept = self._kept("detectors", instance)
        opener = self._prepare("detectors", evolve(instance, table=table), kept=kept)
        return Detection(
            instance.name,
            opener,
            Scope(metrics=frozenset(metrics), selection=selection),
            self.storage,
            self.anomalies,
            self.clock,
            kept=kept,
            settled=self._is_settled,
        )

    def _is_settled(self) -> bool:
        return self.holder is None or not (self.holder.holds or self.holder.waits)

    def _notification(self, instance: Instance) -> Notification:
        table = dict(instance.table)
        late = table.pop("late", False)
        if not isinstance(late, bool):
            raise ConfigError(
                f"[notifiers.{instance.name}] late must be true or false",
                file=self.config.file,
                line=self.config.line_of("notifiers", instance.name, "late"),
            )
        kept = self._kept("notifiers", instance)
        opener = self._prepare("notifiers", evolve(instance, table=table), kept=kept)
        return Notification(instance.name, opener, self.storage, self.anomalies, self.clock, kept=kept, late=late)

    def _selection(self, kind: Kind, instance: Instance, where: object) -> Selection | None:
        if where is None:
            return None
        with _at(self.config, kind, instance.name, "where"):
            if not isinstance(where, str):
                raise ConfigError(f"[{kind}.{instance.name}] where must be a query in quotes")
            return Selection(parse(where), self.search, self.storage, self.clock)

    async def _open_mirror(self, instance: Instance) -> None:
        section, rest = split(self.config, instance)
        selection = self._selection("clouds", instance, section.where)
        # It is read from time to time beside the feed, so it does not follow the feed: it is called each time.
        entities = Entities(
            self.storage,
            self.devices,
            self.twins,
            self.groups,
            self.campaigns,
            certificates=self.security.letting_in,
            located=section.location,
            fleet=self.id,
            mirror=instance.name,
            selects=None if section.where is None else functools.partial(self.search.is_true, parse(section.where)),
        )
        opener = self._prepare("clouds", rest)
        mirror = mirror_of(
            instance.name,
            section,
            opener,
            entities,
            self.twins,
            self.commands,
            self.cutovers.offers.heard_at,
            selection,
            self.storage,
            self.clock,
        )
        self.mirrors[instance.name] = mirror
        await self.consume(mirror.tracker)
        if mirror.readings is not None:
            await self.consume(mirror.readings)
        self.supervisor.keep(f"mirror {instance.name}", mirror.run)

    async def serve(self) -> None:
        """Opens the configured protocols and services.

        One that is not ready is opened later if another one is open; else its NotReady is raised. Raises ConfigError
        and the errors of listeners.
        """
        late: list[tuple[Instance, NotReady]] = []
        for instance in self.config.protocols:
            try:
                await self._open_protocol(instance)
            except NotReady as error:
                late.append((instance, error))
                self.late[instance.name] = str(error)
        if late and not self.protocols:
            raise late[0][1]
        for instance in self.config.services:
            self.services[instance.name] = await self._enter("services", instance, self)
        for instance, why in late:
            # The others serve meanwhile: an unreachable broker must not keep devices on HTTP waiting.
            _log.error("[protocols.%s] is not ready; it is retried: %s", instance.name, why)
            self.supervisor.keep(f"protocol {instance.name}", functools.partial(self._open_late, instance, why))
        self._tell_endpoints()

    def _listeners(self) -> dict[str, str]:
        return {name: each.trouble() for name, each in self.protocols.items()} | self.late

    async def _open_protocol(self, instance: Instance) -> None:
        adapter = await self._enter("protocols", instance, self.plane, self.ingest)
        provider = self.host.find("protocols", instance.kind)
        self.protocols[instance.name] = OpenProtocol(
            name=instance.name, kind=instance.kind, adapter=adapter, provider=provider
        )

    async def _open_late(self, instance: Instance, why: NotReady) -> None:
        """Keeps trying; the reason is reported meanwhile."""
        state = self.supervisor.states[f"protocol {instance.name}"]
        while True:
            state.failures += 1
            state.error = str(why)
            await self.clock.sleep(min(_LATE_S, 2.0**state.failures))
            try:
                await self._open_protocol(instance)
            except NotReady as again:
                why = again
                self.late[instance.name] = str(again)
            else:
                state.failures, state.error = 0, ""
                del self.late[instance.name]
                _log.info("[protocols.%s] is ready", instance.name)
                self._tell_endpoints()
                return

    def _tell_endpoints(self) -> None:
        host = next(iter(self.config.fleet.hosts), "localhost")
        self.security.endpoints = [
            reachable(url, host) for protocol in self.protocols.values() for url in protocol.endpoints()
        ]

    def hold(self, holder: Holder) -> None:
        """Leaves messages to a holder, for as long as it holds them; call it before :meth:`serve`."""

        async def held(deliveries: list[Delivery]) -> None:
            await self.path.hold(holder, deliveries)
            self._heard(deliveries)

        self.holder = holder
        self.ingest.hold(holder, held)

    async def _process(self, deliveries: list[Delivery]) -> None:
        await self.path.process(deliveries)
        self._heard(deliveries)

    def _heard(self, deliveries: list[Delivery]) -> None:
        self.downlinks.heard(
            device for session, inbound, *_ in deliveries for device in (session.identity, inbound.subject)
        )

    async def _tick(self) -> None:
        self.device_sessions.forget_full_buckets()
        await self.downlinks.tick()
        await self.campaigns.tick()

    def _activate(self, device: str) -> None:
        self.downlinks.spawn(self._activated(device), f"activate {device}")

    async def _activated(self, device: str) -> None:
        try:
            await self.devices.activate(device)
        finally:
            self.device_sessions.activated(device)

    async def _flush(self) -> None:
        await self.presence.flush()
        await self.dead_letters.flush()
        await self.denials.flush()

    async def _maintain(self) -> None:
        await self.storage.maintain(self.clock.now_ms())

    async def _look_behind(self) -> None:
        await self.left_behind.look(frozenset(consumer.name for consumer in self.consumers))

    async def _mend_lease(self) -> None:
        if self._lease is not None:
            self._lease.mend()

    async def _end_stale(self) -> None:
        self.device_sessions.end_stale()

    async def _renew(self) -> None:
        if self.tls is not None and self.tls.renew_if_due():
            _log.info("The server's certificate was renewed")
        if self.tls is not None and self.tls.renew_service_if_due():
            _log.info("The certificate for brokers was renewed; the next start uses it")
        await self.security.maintain()

    async def wait_idle(self) -> None:
        """Returns once every working detector, notifier and mirror has handled everything accepted so far."""
        await self.plane.wait_idle()
        for consumer in self.consumers:
            await consumer.catch_up()
        for mirror in self.mirrors.values():
            await mirror.sender.caught_up()

    async def close(self) -> None:
        """Drains the queue, saves the consumers' state, closes every connection and the store. Idempotent."""
        await self._drain()
        await self.plane.close()
        await self.campaigns.close()
        await self.security.close()
        await self.search.close()
        await asyncio.gather(*(self._keep(consumer) for consumer in self.consumers))
        await self.supervisor.close()
        await self.operations.close()
        with contextlib.suppress(FleetError):
            await self._flush()
        await self.operators.flush()
        await self._stack.aclose()

    async def _drain(self) -> None:
        """In parallel and with a time limit: a hanging adapter delays neither the others nor the end."""
        begun_s = time.monotonic()
        drains = {
            asyncio.create_task(item.drain(), name=f"fleetcore drain of {name}"): name
            for name, item in self.protocols.items()
        }
        if drains:
            _, late = await asyncio.wait(drains, timeout=_DRAIN_S)
            for name in sorted(drains[task] for task in late):
                _log.error("Protocol %s did not drain within %g s", name, _DRAIN_S)
            await end_within(late, HEED_S)
        left_s = max(0.1, _DRAIN_S - (time.monotonic() - begun_s))
        try:
            async with asyncio.timeout(left_s):
                await self.ingest.drain()
        except TimeoutError:
            _log.warning(
                "Messages were still waiting after %g s; their senders have no answer and will send them again",
                _DRAIN_S,
            )

    async def _keep(self, consumer: CursorTask) -> None:
        """Saves one consumer's final state; without it, the consumer repeats its work since the last save."""
        try:
            async with asyncio.timeout(_KEEP_S):
                await consumer.keep()
        except Exception as error:
            _log.warning("%s did not return its state: %s: %s", consumer.name, type(error).__name__, error)


def _leased(fleets: Lease | None, folder: Path) -> contextlib.AbstractContextManager[object]:
    """The lease on a store's own folder; the fleet's folder is leased already."""
    if fleets is not None and fleets.covers(folder):
        return contextlib.nullcontext()
    return Lease.take(folder)


@contextlib.contextmanager
def _at(config: Config, *path: str) -> Iterator[None]:
    """Adds its place to a configuration error that was found here."""
    try:
        yield
    except (ConfigError, Refused) as error:
        if isinstance(error, ConfigError) and error.file:
            raise
        place, line = config.file, config.line_of(*path)
        # A query's own line and column are already in its message.
        ids: dict[str, Any] = dict(error.ids) if isinstance(error, ConfigError) else {}
        raise ConfigError(error.message, file=place, line=line, remedy=error.remedy, **ids) from error


def _offered(
    config: Config, host: PluginHost, kind: Kind, instance: Instance, context: Context, more: tuple[object, ...] = ()
) -> Offered:
    """The offer that a section chooses, with its config; raises ConfigError, and PluginError as the host does."""
    path = (kind,) if kind == "storage" else (kind, instance.name)
    provider = host.find(
        kind,
        instance.kind,
        file=config.file,
        line=config.line_of(*path),
        section="" if instance.named or kind == "codecs" else f"[{'.'.join(path)}]",
        keys=instance.table.keys(),
    )
    return Offered(
        provider=provider,
        plugin=host.plugin_of(kind, instance.kind),
        section=config.structure(provider.config_class, instance.table, *path, taken=CORE_KEYS.get(kind, ())),
        context=context,
        more=more,
        timeout_s=config.fleet.open_timeout_s,
    )


def _raise(error: PluginError) -> Offered:
    raise PluginError(error.message, remedy=error.remedy)
