"""Creates missing topics and the subscription of commands, if the section has ``create = true``.

Existing ones do not change: whether a subscription is ordered is a flag of its creation that cannot be set later.
``mirror check`` reports unsuitable ones.
"""

from collections.abc import Sequence

from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf.duration_pb2 import Duration
from google.pubsub_v1.types import DeadLetterPolicy, ExpirationPolicy, MessageStoragePolicy, Subscription
from google.pubsub_v1.types import Topic as TopicRecord

from fleetcore_gcp.clients import Clients
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.failures import CallFailed
from fleetcore_gcp.topics import Names, Topic

#: How long a command may be held before it comes again; held ones are extended.
ACK_DEADLINE_S = 60
PUBLISHER, SUBSCRIBER = "roles/pubsub.publisher", "roles/pubsub.subscriber"


class Making:
    """See the module. All of it can be repeated, also while another server does the same."""

    def __init__(self, clients: Clients, config: GcpConfig) -> None:
        self._clients, self._config, self._names = clients, config, Names(config)

    async def topic(self, topic: Topic) -> None:
        """Creates a topic whose messages stay in the region."""
        config = self._config
        record = TopicRecord(name=self._names.topic(topic), labels={"made-by": "fleetcore"})
        if config.region is not None:
            record.message_storage_policy = MessageStoragePolicy(
                allowed_persistence_regions=[config.region], enforce_in_transit=True
            )
        if config.retain_days:
            record.message_retention_duration = Duration(seconds=config.retain_days * 86_400)
        await self._made("pubsub.topics.create", "create_topic", record, publisher=True)

    async def commands(self) -> None:
        """Creates the subscription of commands, its topic, and the storage of its dead letters."""
        names = self._names
        dead = names.topic("commands-dead")
        await self.topic("commands")
        await self.topic("commands-dead")
        # Without a subscription a topic stores nothing for later.
        await self._subscription(Subscription(name=names.dead_commands, topic=dead))
        policy = DeadLetterPolicy(dead_letter_topic=dead, max_delivery_attempts=self._config.deliveries)
        await self._subscription(
            Subscription(
                name=names.commands,
                topic=names.topic("commands"),
                enable_message_ordering=True,
                ack_deadline_seconds=ACK_DEADLINE_S,
                dead_letter_policy=policy,
            )
        )
        if (agent := service_agent(self._config)) is not None:
            await self._grant(dead, PUBLISHER, agent, publisher=True)
            await self._grant(names.commands, SUBSCRIBER, agent, publisher=False)

    async def _subscription(self, record: Subscription) -> None:
        record.expiration_policy = ExpirationPolicy()  # never, even if no server runs for a month
        both = "pubsub.subscriptions.create and, on its topic, pubsub.topics.attachSubscription"
        await self._made(both, "create_subscription", record, publisher=False)

    async def _made(self, permission: str, method: str, record: object, *, publisher: bool) -> None:
        call = self._clients.publishing if publisher else self._clients.subscribing
        try:
            await call(permission, method, record)
        except CallFailed as failed:
            if failed.kind != "exists":
                raise

    async def _grant(self, resource: str, role: str, member: str, *, publisher: bool) -> None:
        """Adds a member to a role; with the policy's etag it fails after a concurrent change."""
        side = "topics" if publisher else "subscriptions"
        call = self._clients.publishing if publisher else self._clients.subscribing
        policy = await call(
            f"pubsub.{side}.getIamPolicy", "get_iam_policy", iam_policy_pb2.GetIamPolicyRequest(resource=resource)
        )
        if member in members(policy, role):
            return
        policy.bindings.append(policy_pb2.Binding(role=role, members=[member]))
        request = iam_policy_pb2.SetIamPolicyRequest(resource=resource, policy=policy)
        await call(f"pubsub.{side}.setIamPolicy", "set_iam_policy", request)


def members(policy: policy_pb2.Policy, role: str) -> Sequence[str]:
    """The members of a role."""
    return [member for binding in policy.bindings if binding.role == role for member in binding.members]


def service_agent(config: GcpConfig) -> str | None:
    """Pub/Sub's own account in the project, which moves dead letters; None if the project's number is not configured.

    https://cloud.google.com/pubsub/docs/handling-failures#grant_forwarding_permissions
    """
    if config.project_number is None:
        return None
    return f"serviceAccount:service-{config.project_number}@gcp-sa-pubsub.iam.gserviceaccount.com"
