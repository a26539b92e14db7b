"""The contract tests' access to the simulated Pub/Sub: its hub, and a receiver of all messages."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.pubsub_v1.types import PubsubMessage, Subscription
from google.pubsub_v1.types import Topic as TopicRecord

from fleetcore.interfaces.cloud import MirrorItem
from fleetcore.model.mirror import EntityKey
from fleetcore.wire.times import read_ms
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.publishing import ID
from fleetcore_gcp.receiver import Receiver
from fleetcore_gcp.testing.server import Front
from fleetcore_gcp.topics import TOPICS, Names, Topic

ALL: Sequence[Topic] = ("registry", "state", "jobs", "telemetry", "commands", "commands-dead")


class Control:
    """A :class:`~fleetcore.testing.cloud_contract.ReceiverControl` of the simulated Pub/Sub."""

    def __init__(self, front: Front, config: GcpConfig) -> None:
        self.front, self.names = front, Names(config)

    def prepare(self) -> None:
        """Creates what an operator would: topics with a subscription each, and the one of commands."""
        for topic in ALL:
            self.front.hub.create_topic(TopicRecord(name=self.names.topic(topic)))
            name = f"{self.names.project}/subscriptions/heard-{topic}"
            self.front.hub.create_subscription(
                Subscription(name=name, topic=self.names.topic(topic), enable_message_ordering=True)
            )
        self.front.hub.create_subscription(
            Subscription(
                name=self.names.commands,
                topic=self.names.topic("commands"),
                enable_message_ordering=True,
                dead_letter_policy={
                    "dead_letter_topic": self.names.topic("commands-dead"),
                    "max_delivery_attempts": 5,
                },
            )
        )

    def messages(self, topic: Topic) -> Sequence[PubsubMessage]:
        """All that was published to a topic, in order."""
        published = self.front.hub.topics.get(self.names.topic(topic))
        return () if published is None else tuple(published.messages)

    async def received(self) -> Mapping[EntityKey, MirrorItem]:
        """See the contract: built from the messages alone."""
        receiver = Receiver()
        for topic in sorted(set(TOPICS.values())):
            for each in self.messages(topic):
                receiver.take(dict(each.attributes), each.data)
        return receiver.states

    async def repeat(self) -> None:
        """See the contract."""
        for topic in set(TOPICS.values()):
            published = self.front.hub.topics[self.names.topic(topic)]
            published.messages += list(reversed(published.messages))

    async def has(self, key: EntityKey) -> bool:
        """See the contract."""
        return key in await self.received()

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The rows of received readings, without repetitions."""
        return list({each.attributes[ID]: json.loads(each.data) for each in self.messages("telemetry")}.values())

    async def telemetry(self, device: str) -> Sequence[tuple[str, int, float | str]]:
        """See the contract."""
        return [
            (row["metric"], int(read_ms(row["time"])), row.get("value", row.get("text", row.get("boolean"))))
            for row in self.rows()
            if row["device"] == device
        ]

    def put(self, data: bytes, key: str = "", **attributes: str) -> None:
        """Publishes to the topic of commands, as another sender."""
        message = PubsubMessage(data=data, ordering_key=key, attributes=attributes)
        self.front.hub.publish(self.names.topic("commands"), [message])

    async def command(self, device: str, name: str, args: Mapping[str, object]) -> None:
        """See the contract."""
        self.put(json.dumps({"device": device, "command": name, "args": args}).encode(), device)

    async def throttle(self) -> None:
        """See the contract."""
        self.front.faults.throttled = 1 << 30

    async def go_down(self) -> None:
        """See the contract."""
        self.front.faults.down = True

    async def lose_answers(self, calls: int) -> None:
        """See the contract."""
        self.front.faults.lost = calls

    async def have_time(self, ahead_s: float) -> None:
        """Sets Google's clock ahead of this machine's, or behind it if negative."""
        self.front.faults.skew_s = ahead_s

    async def reject_credentials(self) -> None:
        """See the contract."""
        self.front.faults.refused = "UNAUTHENTICATED"

    async def heal(self) -> None:
        """See the contract."""
        self.front.faults.heal()
