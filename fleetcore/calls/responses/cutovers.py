"""Cut-overs of devices between this fleet and cloud hubs."""

from fleetcore.calls.types import Ms, Response


class CutoverResponse(Response, frozen=True):
    """The last cut-over of a device.

    ``source`` and ``target`` are ``fleet`` or the name of a mirror. ``state`` is ``offered``, ``confirmed``,
    ``fell_back``, ``timed_out`` or ``cancelled``; where the device stayed, ``reason`` says why. ``until`` is when an
    offer ends by itself, ``ended`` when it ended.
    """

    device: str
    epoch: int
    operation: str
    source: str
    target: str
    state: str
    offered: Ms
    until: Ms
    ended: Ms | None
    reason: str


class CutoverPlanResponse(Response, frozen=True):
    """What a cut-over would do with a device: ``offer`` it the move in a wave, or ``skip`` it for a reason."""

    device: str
    wave: int
    source: str
    target: str
    action: str
    reason: str
