"""Pub/Sub in memory: topics, subscriptions with ordering, leases and dead letters, and IAM policies on both.

It has the service's documented limits. Order: a subscription created with the flag delivers a message of an ordering
key only after all earlier ones of it, and if one comes back, all later ones of its key come again.
"""

import itertools
import re
import threading
import time
from collections.abc import Sequence

from attrs import field, mutable
from google.iam.v1.policy_pb2 import Policy
from google.pubsub_v1.types import PubsubMessage, ReceivedMessage, Subscription
from google.pubsub_v1.types import Topic as TopicRecord

from fleetcore_gcp.testing.faults import RefusedByPubSub

#: https://cloud.google.com/pubsub/quotas#resource_limits and ../docs/pubsub-basics#resource_names.
MAX_MESSAGES, MAX_BYTES, MAX_ATTRIBUTES, MAX_NAME_LENGTH, MAX_VALUE_LENGTH, MAX_KEY_LENGTH = (
    1000, 10_000_000, 100, 256, 1024, 1024,
)  # fmt: skip
_NAME = re.compile(r"projects/[^/]+/(topics|subscriptions)/(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}")
#: Roles that the service agent needs for dead-lettering.
_PUBLISHER, _SUBSCRIBER = "roles/pubsub.publisher", "roles/pubsub.subscriber"


@mutable
class Entry:
    """A message in a subscription; ``lease`` is its ack id while a subscriber has it, until ``until_s``."""

    message: PubsubMessage
    attempts: int = 0
    lease: str = ""
    until_s: float = 0.0


@mutable
class Subscribed:
    """A subscription: its record, and its unacknowledged messages in order."""

    record: Subscription
    entries: list[Entry] = field(factory=list)
    policy: Policy = field(factory=Policy)


@mutable
class Published:
    """A topic: its record, and everything published to it."""

    record: TopicRecord
    messages: list[PubsubMessage] = field(factory=list)
    policy: Policy = field(factory=Policy)


class Hub:
    """See the module. Every method may be called from any thread.

    Attributes:
        news: notified when there may be something to deliver.
    """

    def __init__(self) -> None:
        self.topics: dict[str, Published] = {}
        self.subscriptions: dict[str, Subscribed] = {}
        self.news = threading.Condition(threading.RLock())
        self._numbers = itertools.count(1)

    # -- topics and subscriptions -----------------------------------------------------------------------------------

    def create_topic(self, record: TopicRecord) -> TopicRecord:
        """Creates one. Raises :class:`RefusedByPubSub`, as all do."""
        with self.news:
            _named(record.name)
            if record.name in self.topics:
                raise RefusedByPubSub("ALREADY_EXISTS", f"Resource already exists: {record.name}")
            self.topics[record.name] = Published(record)
            return record

    def topic(self, name: str) -> Published:
        """An existing one."""
        with self.news:
            if name not in self.topics:
                raise RefusedByPubSub("NOT_FOUND", f"Resource not found: {name}")
            return self.topics[name]

    def create_subscription(self, record: Subscription) -> Subscription:
        """Creates one, which gets messages published from now on."""
        with self.news:
            _named(record.name)
            self.topic(record.topic)
            if record.name in self.subscriptions:
                raise RefusedByPubSub("ALREADY_EXISTS", f"Resource already exists: {record.name}")
            dead = record.dead_letter_policy
            if dead.dead_letter_topic:
                self.topic(dead.dead_letter_topic)
                if not 5 <= dead.max_delivery_attempts <= 100:
                    raise RefusedByPubSub("INVALID_ARGUMENT", "max_delivery_attempts must be between 5 and 100")
            self.subscriptions[record.name] = Subscribed(record)
            return record

    def subscription(self, name: str) -> Subscribed:
        """An existing one."""
        with self.news:
            if name not in self.subscriptions:
                raise RefusedByPubSub("NOT_FOUND", f"Resource not found: {name}")
            return self.subscriptions[name]

    def of_topic(self, name: str) -> Sequence[str]:
        """The subscriptions of a topic."""
        with self.news:
            self.topic(name)
            return [each for each, subscribed in self.subscriptions.items() if subscribed.record.topic == name]

    def resource(self, name: str) -> Published | Subscribed:
        """The resource of an IAM policy."""
        return self.topic(name) if "/topics/" in name else self.subscription(name)

    # -- messages ---------------------------------------------------------------------------------------------------

    def publish(self, topic: str, messages: Sequence[PubsubMessage]) -> Sequence[str]:
        """Accepts the messages of one request, all of them or none."""
        with self.news:
            published = self.topic(topic)
            _within_limits(messages)
            ids = []
            for each in messages:
                given = PubsubMessage(
                    data=each.data, attributes=dict(each.attributes), ordering_key=each.ordering_key,
                    message_id=str(next(self._numbers)), publish_time=_now(),
                )  # fmt: skip
                ids.append(given.message_id)
                self._deliver(topic, published, given)
            self.news.notify_all()
            return ids

    def _deliver(self, topic: str, published: Published, message: PubsubMessage) -> None:
        published.messages.append(message)
        for each in self.subscriptions.values():
            if each.record.topic == topic:
                each.entries.append(Entry(message))

    def pull(self, name: str, most: int, deadline_s: int) -> Sequence[ReceivedMessage]:
        """Leases the available messages."""
        with self.news:
            subscribed = self.subscription(name)
            self._expire(subscribed)
            found: list[ReceivedMessage] = []
            waiting: set[str] = set()
            for entry in list(subscribed.entries):
                key = entry.message.ordering_key if subscribed.record.enable_message_ordering else ""
                if entry.lease:
                    continue
                if key in waiting or len(found) >= most:
                    waiting |= {key} - {""}
                    continue
                if self._is_dead(subscribed, entry):
                    continue
                entry.attempts += 1
                entry.lease = f"{entry.message.message_id}-{entry.attempts}-{next(self._numbers)}"
                entry.until_s = time.monotonic() + deadline_s
                found.append(
                    ReceivedMessage(
                        ack_id=entry.lease,
                        message=entry.message,
                        delivery_attempt=entry.attempts
                        if subscribed.record.dead_letter_policy.dead_letter_topic
                        else 0,
                    )
                )
            return found

    def acknowledge(self, name: str, ack_ids: Sequence[str]) -> None:
        """Removes messages; ignores expired leases, like the service."""
        with self.news:
            subscribed = self.subscription(name)
            subscribed.entries = [each for each in subscribed.entries if not each.lease or each.lease not in ack_ids]
            self.news.notify_all()

    def modify(self, name: str, ack_ids: Sequence[str], deadline_s: int) -> None:
        """Extends leases, or ends them with 0."""
        with self.news:
            subscribed = self.subscription(name)
            for entry in subscribed.entries:
                if entry.lease and entry.lease in ack_ids:
                    entry.until_s = time.monotonic() + deadline_s if deadline_s else 0.0
            self._expire(subscribed)
            self.news.notify_all()

    def _expire(self, subscribed: Subscribed) -> None:
        """Expired or returned messages come again, with all later ones of their key."""
        now_s, back = time.monotonic(), set[str]()
        for entry in subscribed.entries:
            key = entry.message.ordering_key if subscribed.record.enable_message_ordering else ""
            if entry.lease and (entry.until_s <= now_s or key in back):
                entry.lease = ""
                back |= {key} - {""}

    def _is_dead(self, subscribed: Subscribed, entry: Entry) -> bool:
        """Moves a message after too many attempts to the dead letters, if the service agent may do that."""
        dead = subscribed.record.dead_letter_policy
        if not dead.dead_letter_topic or entry.attempts < dead.max_delivery_attempts:
            return False
        to = self.topics.get(dead.dead_letter_topic)
        if to is None or not (_has_agent(to.policy, _PUBLISHER) and _has_agent(subscribed.policy, _SUBSCRIBER)):
            return False
        subscribed.entries.remove(entry)
        self._deliver(dead.dead_letter_topic, to, entry.message)
        return True


def _has_agent(policy: Policy, role: str) -> bool:
    return any(
        member.endswith("@gcp-sa-pubsub.iam.gserviceaccount.com")
        for binding in policy.bindings
        if binding.role == role
        for member in binding.members
    )


def _named(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise RefusedByPubSub("INVALID_ARGUMENT", f"Invalid resource name given (name={name})")


def _now() -> dict[str, int]:
    now_ns = time.time_ns()
    return {"seconds": now_ns // 10**9, "nanos": now_ns % 10**9}


def _within_limits(messages: Sequence[PubsubMessage]) -> None:
    """Raises for what the service refuses."""
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise RefusedByPubSub("INVALID_ARGUMENT", f"The value for message_count is {len(messages)}")
    if len({each.ordering_key for each in messages}) > 1:
        raise RefusedByPubSub(
            "INVALID_ARGUMENT", "In a single publish request, all messages must have one ordering key"
        )
    if sum(PubsubMessage.pb(each).ByteSize() for each in messages) > MAX_BYTES:
        raise RefusedByPubSub("INVALID_ARGUMENT", "The request is larger than 10 MB")
    for each in messages:
        attributes = dict(each.attributes)
        if not each.data and not attributes:
            raise RefusedByPubSub("INVALID_ARGUMENT", "A message must have data or an attribute")
        if len(attributes) > MAX_ATTRIBUTES or len(each.ordering_key.encode()) > MAX_KEY_LENGTH:
            raise RefusedByPubSub("INVALID_ARGUMENT", "Too many attributes, or an ordering key that is too long")
        for name, value in attributes.items():
            if not name or name.startswith("goog") or len(name.encode()) > MAX_NAME_LENGTH:
                raise RefusedByPubSub("INVALID_ARGUMENT", f"The attribute key {name!r} is invalid")
            if len(value.encode()) > MAX_VALUE_LENGTH:
                raise RefusedByPubSub("INVALID_ARGUMENT", f"The attribute value of {name!r} is too long")
