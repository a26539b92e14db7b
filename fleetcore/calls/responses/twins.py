"""Twins: a device's desired and reported state."""

from fleetcore.calls.types import Json, Ms, Response


class OriginResponse(Response, frozen=True):
    """The layer that set a leaf of the desired section; by whom, and when."""

    layer: str
    by: str
    time: Ms | None


class TwinResponse(Response, frozen=True):
    """A device's twin; its ETag has the versions of all sections.

    Leaves are named by their JSON pointers: ``origins`` is the layer of each desired one, ``unconverged`` since when
    the reported section differs from it, ``refused`` why the device refused it.
    """

    desired: Json
    desired_version: int
    reported: Json
    reported_version: int
    attributes: Json
    attributes_version: int
    delta: Json
    acknowledged: int
    refused: Json
    origins: dict[str, OriginResponse]
    unconverged: dict[str, Ms]
    time: Ms

    def etag(self) -> str:
        """``d3.r7.a2``: the versions of the desired section, the reported one, and the attributes."""
        return f"d{self.desired_version}.r{self.reported_version}.a{self.attributes_version}"


class TwinChangeResponse(Response, frozen=True):
    """A change of a section; ``undo`` is the merge patch that undoes it."""

    version: int
    time: Ms | None
    by: str
    reason: str
    undo: Json
