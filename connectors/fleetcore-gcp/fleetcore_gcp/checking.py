"""``mirror check``: tests each permission, and checks topics and the subscription. Changes nothing."""

import asyncio
from collections.abc import Sequence

from google.iam.v1 import iam_policy_pb2
from google.pubsub_v1.types import GetSubscriptionRequest, GetTopicRequest, ListTopicSubscriptionsRequest, Subscription

from fleetcore.interfaces.call_failed import clock_finding, clock_first, for_all
from fleetcore.interfaces.cloud import CloudUse
from fleetcore.interfaces.protocol import Finding
from fleetcore_gcp.clients import Clients
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.failures import CallFailed
from fleetcore_gcp.making import PUBLISHER, SUBSCRIBER, members, service_agent
from fleetcore_gcp.permissions import PERMISSIONS, RATES, SOURCES, Needed, needed, topics_in_use
from fleetcore_gcp.topics import Names, Topic

_GET_TOPIC, _GET_SUBSCRIPTION = "pubsub.topics.get", "pubsub.subscriptions.get"
_MADE = "will be created at its first use (create = true)"


class Checking:
    """See the module."""

    def __init__(self, clients: Clients, config: GcpConfig) -> None:
        self._clients, self._config, self._names = clients, config, Names(config)

    async def check(self, use: CloudUse) -> Sequence[Finding]:
        """As in the interface."""
        wanted = needed(use, self._config)
        found = await asyncio.gather(
            *(self._topic(topic) for topic in topics_in_use(use)),
            *((self._subscription(),) if use.commands else ()),
            *(self._permissions(each) for each in wanted),
        )
        flat = [finding for findings in found for finding in findings]
        paced = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in RATES.items())
        detail = f"default rate limits, changed by [clouds.NAME.rates]: {paced} ({SOURCES['quotas']})"
        return clock_first([*flat, Finding(state="ok", what="quotas", detail=detail)])

    async def _topic(self, topic: Topic) -> Sequence[Finding]:
        name = self._names.topic(topic)
        try:
            record = await self._clients.publishing(_GET_TOPIC, "get_topic", GetTopicRequest(topic=name))
            heard = await self._clients.publishing(
                _GET_TOPIC, "list_topic_subscriptions", ListTopicSubscriptionsRequest(topic=name)
            )
        except CallFailed as failed:
            return [self._not_there(name, "Create the topic, or set create = true", failed)]
        regions = list(record.message_storage_policy.allowed_persistence_regions)
        if regions and self._config.region is not None and regions != [self._config.region]:
            said = f"its messages may be stored in {', '.join(regions)}: they are only ordered within one region"
            return [_warning(name, said, f"Restrict its storage policy to {self._config.region}")]
        if not list(heard.subscriptions):
            keeps = bool(record.message_retention_duration)
            said = "it has no subscription, so its messages are lost" + (
                ", and a later one must seek back" if keeps else ", and they are lost"
            )
            remedy = f"gcloud pubsub subscriptions create NAME --topic={name} --enable-message-ordering"
            return [_warning(name, said, remedy)]
        return [_ok(name, f"exists, with {len(heard.subscriptions)} subscription(s)")]

    async def _subscription(self) -> Sequence[Finding]:
        name = self._names.commands
        try:
            record = await self._clients.subscribing(
                _GET_SUBSCRIPTION, "get_subscription", GetSubscriptionRequest(subscription=name)
            )
        except CallFailed as failed:
            return [self._not_there(name, "Create the subscription, or set create = true", failed)]
        return [*self._ordered(name, record), *await self._dead_letters(name, record)]

    def _ordered(self, name: str, record: Subscription) -> Sequence[Finding]:
        if not record.enable_message_ordering:
            remedy = "Delete it and create it again with --enable-message-ordering: it cannot be set later"
            return [Finding(state="problem", what=name, detail="it is not ordered", remedy=remedy)]
        return [_ok(name, "exists and is ordered")]

    async def _dead_letters(self, name: str, record: Subscription) -> Sequence[Finding]:
        policy = record.dead_letter_policy
        if not policy.dead_letter_topic:
            said = "it has no dead letters: a command that the fleet can never store blocks its device forever"
            return [_warning(name, said, f"gcloud pubsub subscriptions update {name} --dead-letter-topic=TOPIC")]
        said = f"dead letters after {policy.max_delivery_attempts} deliveries, to {policy.dead_letter_topic}"
        if not self._config.create:
            detail = f"{said}; whether Pub/Sub's service agent may move them is not tested"
            return [_ok("dead letters", detail)]
        agent = service_agent(self._config)
        if agent is None:
            remedy = "Add project_number, or give the service agent these roles yourself"
            detail = f"{said}; without the project's number its service agent does not get {PUBLISHER} and {SUBSCRIBER}"
            return [_warning("dead letters", detail, remedy)]
        return [await self._agent(agent, record, said)]

    async def _agent(self, agent: str, record: Subscription, said: str) -> Finding:
        """Whether the service agent may take from the subscription and publish to the topic of dead letters."""
        lacking = []
        try:
            for resource, role, side in (
                (record.dead_letter_policy.dead_letter_topic, PUBLISHER, "topics"),
                (record.name, SUBSCRIBER, "subscriptions"),
            ):
                call = self._clients.publishing if side == "topics" else self._clients.subscribing
                request = iam_policy_pb2.GetIamPolicyRequest(resource=resource)
                if agent not in members(await call(f"pubsub.{side}.getIamPolicy", "get_iam_policy", request), role):
                    lacking.append(f"{role} on {resource}")
        except CallFailed as failed:
            return _problem("dead letters", failed)
        if lacking:
            remedy = (
                "Whether the service agent may take messages from the subscription and publish to the dead letter "
                "topic."
            )
            detail = "Pub/Sub may not move dead letters: they are delivered forever"
            return Finding(state="problem", what="dead letters", detail=detail, remedy=remedy)
        return _ok("dead letters", said)

    async def _permissions(self, wanted: Needed) -> Sequence[Finding]:
        if wanted.resource == self._names.project:
            detail = f"cannot be tested: {', '.join(wanted.permissions)}; the printed policy contains them"
            return [_ok("permissions on the project", detail)]
        topic = "/topics/" in wanted.resource
        call = self._clients.publishing if topic else self._clients.subscribing
        request = iam_policy_pb2.TestIamPermissionsRequest(resource=wanted.resource, permissions=wanted.permissions)
        try:
            had = set((await call(wanted.permissions[0], "test_iam_permissions", request)).permissions)
        except CallFailed as failed:
            if failed.kind == "missing":
                return ()  # reported where the topic or subscription was checked
            return [_problem(wanted.resource, failed)]
        return [self._permission(each, wanted.resource, granted=each in had) for each in wanted.permissions]

    @staticmethod
    def _permission(permission: str, resource: str, *, granted: bool) -> Finding:
        if granted:
            return _ok(permission, f"granted on {resource}: it {PERMISSIONS[permission]}")
        remedy = f"Grant the permission {permission} on it to these credentials: `fleetcore mirror policy NAME`"
        return Finding(state="problem", what=permission, detail=f"not granted on {resource}", remedy=remedy)

    def _not_there(self, name: str, remedy: str, failed: CallFailed) -> Finding:
        if failed.kind != "missing":
            return _problem(name, failed)
        if self._config.create:
            return _ok(name, _MADE)
        return Finding(state="problem", what=name, detail=str(failed), remedy=remedy)


def _ok(what: str, detail: str) -> Finding:
    return Finding(state="ok", what=what, detail=detail)


def _warning(what: str, detail: str, remedy: str) -> Finding:
    return Finding(state="warning", what=what, detail=detail, remedy=remedy)


def _problem(what: str, failed: CallFailed) -> Finding:
    if failed.kind == "clock":
        return clock_finding(failed)
    if failed.kind == "throttled":
        return _warning(what, str(failed), "Lower its rate in [clouds.NAME.rates], or have the quota raised")
    refused = failed.kind == "credentials"
    remedy = for_all(failed).remedy if refused else "Check whether Pub/Sub can be reached from here"
    return Finding(state="problem", what=what, detail=str(failed), remedy=remedy)
