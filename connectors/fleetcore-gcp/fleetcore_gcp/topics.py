"""Which topic what goes to, and which ordering key it has there."""

from typing import Literal, cast

from attrs import frozen

from fleetcore.model.mirror import EntityKey, Facet
from fleetcore_gcp.config import GcpConfig

Topic = Literal["registry", "state", "jobs", "telemetry", "commands", "commands-dead"]

#: The facets that are published, each with its topic.
TOPICS: dict[Facet, Topic] = {"registry": "registry", "group": "registry", "twin": "state", "job": "jobs"}


def ordering_key(key: EntityKey) -> str:
    """Messages of one device are in order within a topic, and so are those of a group."""
    return f"group:{key.id}" if key.facet == "group" else cast("str", key.device)


@frozen
class Names:
    """Full names of a section's topics and of its subscription."""

    config: GcpConfig

    def topic(self, topic: Topic) -> str:
        """``projects/PROJECT/topics/PREFIXregistry``."""
        return f"projects/{self.config.project}/topics/{self.config.prefix}{topic}"

    @property
    def commands(self) -> str:
        """The subscription that commands come by."""
        return f"projects/{self.config.project}/subscriptions/{self.config.prefix}commands"

    @property
    def dead_commands(self) -> str:
        """The subscription that keeps commands which were delivered too often."""
        return f"projects/{self.config.project}/subscriptions/{self.config.prefix}commands-dead"

    @property
    def project(self) -> str:
        """What topics are made in."""
        return f"projects/{self.config.project}"
