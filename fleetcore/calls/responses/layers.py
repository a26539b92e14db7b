"""Layers of desired state."""

from fleetcore.calls.types import Json, Response
from fleetcore.model.layer import LayerKind


class SectionResponse(Response, frozen=True):
    """A document, and the number of its changes."""

    document: Json
    version: int


class LayerResponse(Response, frozen=True):
    """Desired state for many devices; ``by`` says who set each leaf, by its JSON pointer."""

    id: str
    kind: LayerKind
    group: str | None
    priority: int
    section: SectionResponse
    by: dict[str, str]
    version: int

    def etag(self) -> str:
        """The version of the section, which ``If-Match`` of a change is compared with."""
        return f"{self.section.version}"
