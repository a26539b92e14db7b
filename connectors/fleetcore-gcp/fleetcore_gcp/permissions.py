"""The permissions that this connector may need: resource and purpose, in one table.

The printed policy lists them, the check tests them, and findings name them.
"""

from collections.abc import Mapping, Sequence

from attrs import frozen

from fleetcore.interfaces.cloud import CloudUse
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.topics import TOPICS, Names, Topic

#: Sources of the rates, and of the rules for roles. Written from memory of these pages.
SOURCES: Mapping[str, str] = {
    "quotas": "https://cloud.google.com/pubsub/quotas",
    "roles": "https://cloud.google.com/pubsub/docs/access-control",
}
#: By class of call, per second. ``publish_kb``: kB to publish in the small regions, 12,000,000 a minute; large ones
#: allow twenty times that. ``admin``: calls that create, read and test topics and subscriptions, 6,000 a minute.
RATES: Mapping[str, float] = {"publish_kb": 200_000.0, "admin": 100.0}

PERMISSIONS: Mapping[str, str] = {
    "pubsub.topics.publish": "publishes",
    "pubsub.topics.get": "checks whether a topic exists, and its subscriptions",
    "pubsub.subscriptions.consume": "takes commands",
    "pubsub.subscriptions.get": "checks whether the subscription exists and is ordered",
    "pubsub.topics.create": "creates missing topics",
    "pubsub.subscriptions.create": "creates the subscription of commands, and that of its dead letters",
    "pubsub.topics.attachSubscription": "creates these subscriptions on their topics",
    "pubsub.topics.getIamPolicy": "reads who may publish dead letters",
    "pubsub.topics.setIamPolicy": "lets Pub/Sub's service agent publish dead letters",
    "pubsub.subscriptions.getIamPolicy": "reads who may take commands",
    "pubsub.subscriptions.setIamPolicy": "lets Pub/Sub's service agent take dead letters out of the subscription",
}


@frozen(order=True)
class Needed:
    """Permissions on a resource, by its full name: a project, a topic or a subscription."""

    resource: str
    permissions: Sequence[str]


def topics_in_use(use: CloudUse) -> Sequence[Topic]:
    """The topics that are used."""
    found: list[Topic] = sorted({TOPICS[facet] for facet in use.sends if facet in TOPICS})
    return [*found, *(("telemetry",) if use.readings else ())]


def needed(use: CloudUse, config: GcpConfig) -> Sequence[Needed]:
    """The permissions of a mirror with this use and configuration, resource by resource."""
    names = Names(config)
    found = [Needed(names.topic(topic), ("pubsub.topics.publish", "pubsub.topics.get")) for topic in topics_in_use(use)]
    if use.commands:
        found.append(Needed(names.commands, ("pubsub.subscriptions.consume", "pubsub.subscriptions.get")))
    if config.create:
        found += _to_make(use, config, names)
    merged: dict[str, list[str]] = {}
    for each in found:
        merged.setdefault(each.resource, []).extend(each.permissions)
    return [Needed(resource, tuple(permissions)) for resource, permissions in merged.items()]


def _to_make(use: CloudUse, config: GcpConfig, names: Names) -> Sequence[Needed]:
    found = [Needed(names.project, ("pubsub.topics.create",))]
    if not use.commands:
        return found
    found.append(Needed(names.project, ("pubsub.subscriptions.create",)))
    dead, attach = names.topic("commands-dead"), "pubsub.topics.attachSubscription"
    found += [Needed(names.topic("commands"), (attach,)), Needed(dead, (attach,))]
    if config.project_number is not None:
        found.append(Needed(dead, ("pubsub.topics.getIamPolicy", "pubsub.topics.setIamPolicy")))
        found.append(Needed(names.commands, ("pubsub.subscriptions.getIamPolicy", "pubsub.subscriptions.setIamPolicy")))
    return found
