"""The consumer behind a broker: the topic's device level identifies the sender, and the broker has checked it.

It subscribes to exactly the write list. A message is acknowledged to the broker after its commit. A temporarily refused
one stays unacknowledged, is kept here and retried; if the server as a whole refuses, nothing more is read. The registry
is consulted for every message, through a session per device that ends when the device loses its rights, so an outdated
access list of the broker lets nothing through.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import ceil
from ssl import SSLContext

from attrs import frozen

from fleetcore.errors import CODES, ConfigError, CredentialsRejected, FleetError, NotReady, Refused
from fleetcore.interfaces import Context, DevicePlane, Ingest, ProtocolAdapter, Session
from fleetcore.interfaces.protocol import Finding
from fleetcore.listening.tasks import Tasks
from fleetcore.model.credential import AssertedCredential
from fleetcore.model.message import UNKNOWN, Accepted, Downlink, Inbound, Outcome, Rejected
from fleetcore.wire.replies import problem, refusal
from fleetcore.wire.times import format_time
from fleetcore.wire.tls import client_context
from fleetcore_mqtt import acl_probe, topics
from fleetcore_mqtt.addresses import Address, read_address
from fleetcore_mqtt.bodies import read_request, reply_body, to_json
from fleetcore_mqtt.config import MqttConfig
from fleetcore_mqtt.eviction import Eviction
from fleetcore_mqtt.link import Arrived, Link, LinkState, Publication
from fleetcore_mqtt.uplinks import content_type

#: Devices whose session stays open between their messages.
SESSIONS = 10_000
#: Devices for which the last used prefix is remembered.
HEARD = 100_000
#: Temporarily refused messages kept per device; beyond this nothing is read from the broker.
HELD = 256
#: From start to the broker's SUBACK.
START_S = 15.0
RETRY_S = 1.0
_NOT_AUTHORISED = frozenset({0x86, 0x87, 0x8C})


@frozen
class _Item:
    """One message under way: the broker's message, and the meaning of its topic."""

    arrived: Arrived
    uplink: topics.Uplink

    @property
    def device(self) -> str:
        return self.uplink.device


class Broker(ProtocolAdapter):
    """The open consumer."""

    def __init__(self, config: MqttConfig, context: Context, plane: DevicePlane, ingest: Ingest) -> None:
        assert config.url is not None
        self._url, self._context, self._plane, self._ingest = config.url, context, plane, ingest
        self._address = address = read_address(config.url)
        self._reload = config.reload
        self._by = address.host
        password = None if config.password is None else context.secret(config.password)
        self._link = Link(
            address,
            config.client_id or f"fleetcore-{context.fleet}",
            tls=_client_tls(address, context),
            credentials=None if config.username is None else (config.username, password),
            unacked=config.broker_unacked,
            arrived=self._take,
            changed=self._changed,
        )
        self._eviction = Eviction(address, config.reload, context)
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        #: Messages of devices whose session is being opened, in order.
        self._opening: dict[str, list[_Item]] = {}
        #: Temporarily refused messages, in order, until their next try.
        self._held: dict[str, deque[_Item]] = {}
        #: The prefix under which a device last sent an accepted message.
        self._heard_below: dict[str, str] = {}
        self._under_way = 0
        self._reasons: set[str] = set()
        self._retrying = False
        self._tasks = Tasks(context.logger)
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._up, self._why = False, ""

    # -- ProtocolAdapter ------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> Sequence[str]:
        return (self._url,)

    @property
    def connections(self) -> int:
        return int(self._up)

    @property
    def trouble(self) -> str:
        return "" if self._up else f"the broker {self._url} cannot be reached: {self._why}"

    @property
    def listens(self) -> bool:
        return False

    async def examine(self) -> Sequence[Finding]:
        if self._context.tls is None or not self._address.secure or not self._up:
            return ()
        loop = asyncio.get_running_loop()

        def send(names: Sequence[str]) -> None:
            for name in names:
                loop.call_soon_threadsafe(self._link.publish, Publication(topic=name, payload=b"{}", expiry_s=1))

        found = [await asyncio.to_thread(acl_probe.examine, self._address, self._context.tls, send)]
        if not self._reload:
            detail = f"{self._by} keeps the connection of a revoked device"
            remedy = f"Set reload in [protocols.{self._context.name}] to a command that makes it read its list again"
            found.append(Finding(state="warning", what="broker revocation", detail=detail, remedy=remedy))
        return found

    async def drain(self) -> None:
        self._stop("drain")
        # Polled, not signalled: a signal would cost something at every message for the sake of the last ones.
        while self._under_way > sum(map(len, self._held.values())):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)

    # -- opening and closing --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects and subscribes; raises NotReady or CredentialsRejected if that fails."""
        self._link.start()
        try:
            async with asyncio.timeout(START_S):
                await self._first
        except TimeoutError as error:
            raise NotReady(f"the broker {self._url} does not answer") from error

    async def close(self) -> None:
        """Disconnects; unacknowledged messages stay at the broker."""
        await self._link.close()
        await self._tasks.end()
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _changed(self, state: LinkState) -> None:
        self._up, self._why = state.up, state.why
        if not self._first.done():
            if state.up:
                self._first.set_result(None)
            elif state.reason in _NOT_AUTHORISED:
                self._first.set_exception(CredentialsRejected(f"the broker {self._url} refuses fleetcore: {state.why}"))
            else:
                self._first.set_exception(NotReady(f"the broker {self._url} cannot be reached: {state.why}"))
        elif state.up:
            self._context.logger.info("connected to %s", self._url)
        else:
            self._context.count("mqtt_broker_lost")
            self._context.logger.warning("%s: %s", self._url, state.why)

    def _stop(self, reason: str) -> None:
        self._reasons.add(reason)
        self._link.stop_reading()

    def _go_on(self, reason: str) -> None:
        self._reasons.discard(reason)
        if not self._reasons:
            self._link.read_on()

    # -- from the broker ------------------------------------------------------------------------------------------

    def _take(self, burst: Sequence[Arrived]) -> None:
        for arrived in burst:
            uplink = topics.parse(arrived.topic)
            if uplink is None:
                # Not below a device: there is no session to tell.
                self._refuse_unheard(arrived, Rejected(code="topic_invalid", reason="not a topic of a device"))
                self._link.acknowledge(arrived)
                continue
            self._under_way += 1
            item = _Item(arrived, uplink)
            waiting = self._held.get(item.device) or self._opening.get(item.device)
            if waiting is not None:
                waiting.append(item)
                if len(waiting) >= HELD:
                    self._stop("held")
            else:
                self._dispatch(item)

    def _note_prefix(self, uplink: topics.Uplink) -> None:
        """A leaf with its own certificate may alternate between its own prefix and its gateway's."""
        heard = self._heard_below
        if heard.get(uplink.subject) != uplink.device:
            if len(heard) >= HEARD:
                heard.clear()
            heard[uplink.subject] = uplink.device

    def _dispatch(self, item: _Item) -> None:
        session = self._sessions.get(item.device)
        if session is None or session.ended is not None:
            self._opening[item.device] = [item]
            self._tasks.spawn(self._open(item.device), f"mqtt session of {item.device}")
            return
        self._sessions.move_to_end(item.device)
        self._hand_over(session, item)

    async def _open(self, device: str) -> None:
        refusal: Rejected | None = None
        try:
            session = await self._plane.authenticate(
                AssertedCredential(device, self._by), protocol=self._context.name, peer=self._by
            )
        except Refused as error:
            refusal = Rejected(code=error.code, reason=error.message)
        except FleetError as error:
            refusal = Rejected(code=error.code if error.code in CODES else "overloaded", reason=error.message)
            if not refusal.temporary:
                refusal = Rejected(code="overloaded", reason=error.message)
        waiting = self._opening.pop(device)
        if refusal is not None:
            self._context.count("mqtt_broker_device_refused")
            for item in waiting:
                if not refusal.temporary:
                    self._refuse_unheard(item.arrived, refusal)
                self._done(item, refusal)
            return
        self._sessions[device] = session
        if len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)[1].close()
        for item in waiting:
            self._hand_over(session, item)
        self._check_held()

    def _hand_over(self, session: Session, item: _Item) -> None:
        uplink, arrived = item.uplink, item.arrived
        limit = self._context.limits.message_bytes
        if len(arrived.payload) > limit:
            rejected = Rejected(code="limit_exceeded", reason="too long", limit=limit, unit="bytes", scope="message")
            self._refuse(session, item, rejected)
        elif uplink.type in topics.DELIVERED:
            declared = getattr(arrived.properties, "ContentType", None)
            message = Inbound(
                type=uplink.type,
                subject=uplink.subject,
                payload=arrived.payload,
                content_type=content_type(declared, arrived.payload, senml=uplink.senml),
                id=_message_id(arrived),
                target=uplink.target,
            )
            if not self._ingest.deliver(session, message, partial(self._done, item)) and "plane" not in self._reasons:
                self._stop("plane")
                self._tasks.spawn(self._await_plane(), "mqtt back-pressure")
        elif uplink.request is not None or uplink.type is not None:
            self._tasks.spawn(self._call(session, item), f"mqtt call of {item.device}")
        else:
            rejected = Rejected(code="operation_unknown", reason=f"the topic {uplink.name!r} is unknown")
            self._refuse(session, item, rejected)

    def _refuse(self, session: Session, item: _Item, rejected: Rejected) -> None:
        self._note(session, item, rejected)
        self._done(item, rejected)

    def _note(self, session: Session, item: _Item, rejected: Rejected) -> None:
        """Records a message that is refused here, before the plane gets it."""
        uplink = item.uplink
        message = Inbound(
            type=uplink.type or UNKNOWN,
            subject=uplink.subject,
            payload=item.arrived.payload,
            target=uplink.target if uplink.type is not None else item.arrived.topic,
        )
        self._plane.refused(session, message, rejected, protocol=self._context.name)

    def _refuse_unheard(self, arrived: Arrived, rejected: Rejected) -> None:
        """Counts a refused message without a device, or of a device that may not send."""
        message = Inbound(type=UNKNOWN, subject="", payload=arrived.payload, target=arrived.topic)
        self._plane.refused(None, message, rejected, protocol=self._context.name)

    async def _await_plane(self) -> None:
        try:
            await self._ingest.ready()
        finally:
            self._go_on("plane")

    def _done(self, item: _Item, outcome: Outcome) -> None:
        if isinstance(outcome, Rejected) and outcome.temporary:
            self._keep(item, outcome)
            return
        self._settle(item)
        if not isinstance(outcome, Rejected):
            self._note_prefix(item.uplink)
        if isinstance(outcome, Rejected) or (isinstance(outcome, Accepted) and outcome.refused):
            self._complain(item, problem(outcome, **self._reference(item)))

    def _settle(self, item: _Item) -> None:
        self._under_way -= 1
        self._link.acknowledge(item.arrived)

    def _reference(self, item: _Item) -> dict[str, object]:
        out: dict[str, object] = {
            "topic": item.arrived.topic,
            "received": format_time(self._context.clock.now_ms()),
        }
        # The packet id is the broker's and would be useless to the device.
        if (message_id := _message_id(item.arrived)) is not None:
            out["id"] = message_id
        return out

    def _complain(self, item: _Item, problem: object) -> None:
        topic = topics.below(item.device, item.device, "errors")
        self._link.publish(Publication(topic=topic, payload=to_json(problem)))

    # -- refused for now ------------------------------------------------------------------------------------------

    def _keep(self, item: _Item, outcome: Rejected) -> None:
        self._context.count("mqtt_temporary_refusal")
        self._held.setdefault(item.device, deque()).append(item)
        if outcome.code != "rate_limited":
            # Not this device's fault: the next message would be refused too.
            self._stop("refused")
        self._check_held()
        if not self._retrying:
            self._retrying = True
            self._tasks.spawn(self._retry(), "mqtt retry")

    async def _retry(self) -> None:
        try:
            while self._held:
                await self._context.clock.sleep(RETRY_S)
                held, self._held = self._held, {}
                for items in held.values():
                    for item in items:
                        self._again(item)
                # The answers come within a turn of the commit; those refused again are in ``_held`` by then.
                await asyncio.sleep(0)
                self._go_on("refused")
                self._check_held()
        finally:
            self._retrying = False

    def _again(self, item: _Item) -> None:
        opening = self._opening.get(item.device)
        if opening is not None:
            opening.append(item)
        else:
            self._dispatch(item)

    def _check_held(self) -> None:
        full = any(len(items) >= HELD for items in (*self._held.values(), *self._opening.values()))
        if full:
            self._stop("held")
        elif "held" in self._reasons:
            self._go_on("held")

    # -- answers and downlinks ------------------------------------------------------------------------------------

    async def _call(self, session: Session, item: _Item) -> None:
        uplink, properties = item.uplink, item.arrived.properties
        message: Inbound | Rejected
        if uplink.request is not None:
            message = read_request(item.arrived.payload, uplink.subject)
            target = topics.below(item.device, uplink.subject, f"reply/{uplink.request}")
        else:
            assert uplink.type is not None
            message = Inbound(type=uplink.type, subject=uplink.subject, payload=item.arrived.payload)
            target = topics.answer_topic(item.device, uplink.subject, uplink.type)
        respond = getattr(properties, "ResponseTopic", None)
        if respond is not None:
            if not topics.is_own_reply(item.device, respond):
                rejected = Rejected(
                    code="topic_invalid", reason="a response topic must be below the device's own reply/"
                )
                self._refuse(session, item, rejected)
                return
            target = respond
        if isinstance(message, Rejected):
            self._note(session, item, message)
            reply = refusal(message)
        else:
            reply = await self._plane.call(session, message)
        self._settle(item)
        if reply.error is None:
            self._note_prefix(uplink)
        correlation = getattr(properties, "CorrelationData", None)
        if uplink.request is not None:
            self._link.publish(Publication(topic=target, payload=to_json(reply_body(reply)), correlation=correlation))
        elif reply.error is not None:
            self._complain(item, {**reply.error, **self._reference(item)})
        else:
            self._link.publish(Publication(topic=target, payload=to_json(reply.body or {}), correlation=correlation))

    def revoked(self, devices: frozenset[str]) -> None:
        """The sink of :meth:`DevicePlane.watch_revocations`: the broker must end the device's connection too."""
        self._tasks.spawn(self._eviction.carry_out(devices), "mqtt eviction")

    def send(self, downlink: Downlink) -> None:
        """The sink of :meth:`DevicePlane.add_broker_sink`."""
        topic = topics.downlink_topic(self._below_whom(downlink), downlink)
        if topic is not None:
            expiry_s = None if downlink.expires_ms is None else max(1, ceil(downlink.expires_ms / 1000))
            self._link.publish(Publication(topic=topic, payload=to_json(downlink.body), expiry_s=expiry_s))

    def _below_whom(self, downlink: Downlink) -> str:
        """The device or its registered gateway, whichever prefix it last used, regardless of any claim.

        A message of an attacker below ``fleet/v1/{attacker}/leaf/{device}/`` must not redirect the device's commands to
        topics that the attacker may read.
        """
        gateway = downlink.gateway
        if gateway is None or self._heard_below.get(downlink.subject) == downlink.subject:
            return downlink.subject
        return gateway


def _message_id(arrived: Arrived) -> str | None:
    for name, value in getattr(arrived.properties, "UserProperty", None) or ():
        if name == "id":
            return str(value)
    return None


def _client_tls(address: Address, context: Context) -> SSLContext | None:
    if not address.secure:
        return None
    if context.tls is None:
        raise ConfigError("mqtts:// needs certificates, and this fleet has none", remedy="Run `fleetcore init`")
    certificate, key, ca = context.tls.service_client()
    return client_context(
        ca=ca.read_bytes(), certificate=certificate.read_bytes(), key=key.read_bytes(), now_ms=context.clock.known_ms
    )


@asynccontextmanager
async def open_broker(
    config: MqttConfig, context: Context, plane: DevicePlane, ingest: Ingest
) -> AsyncIterator[Broker]:
    """Consumes from ``config.url`` while the context lasts."""
    broker = Broker(config, context, plane, ingest)
    try:
        await broker.start()
        ends = [plane.add_broker_sink(broker.send), plane.watch_revocations(broker.revoked)]
        try:
            yield broker
        finally:
            for end in ends:
                end()
    finally:
        await broker.close()
