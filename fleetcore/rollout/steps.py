"""Steps: what a device of a campaign installs first, and the campaign as it is at one of them."""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import fields_dict
from msgspec.structs import replace

from fleetcore.model.firmware import Campaign, Execution, FirmwareImage

#: Between an execution and the number of a step, in the name of an offer. No device id has it.
_STEP = "#"
_MEMBERS = tuple(fields_dict(FirmwareImage))


def members_of(image: FirmwareImage) -> dict[str, Any]:
    """The members of a campaign that installs an image."""
    return {name: getattr(image, name) for name in _MEMBERS}


def installs(campaign: Campaign) -> FirmwareImage:
    """The image that a campaign installs."""
    return FirmwareImage(**{name: getattr(campaign, name) for name in _MEMBERS})


def image_at(campaign: Campaign, step: int) -> Campaign:
    """The campaign with the image of one of its steps."""
    return campaign if step >= len(campaign.before) else replace(campaign, **members_of(campaign.before[step]))


def at_step(campaign: Campaign, execution: Execution) -> Campaign:
    """The campaign as a device sees it: with the image that it installs now."""
    return image_at(campaign, execution.step)


def is_last(campaign: Campaign, execution: Execution) -> bool:
    """Whether a device installs the campaign's own image."""
    return execution.step >= len(campaign.before)


def installed_by(campaign: Campaign, execution: Execution) -> Sequence[FirmwareImage]:
    """The images before the campaign's own that a device installed in it, without those that it had."""
    return [image for step, image in enumerate(campaign.before) if execution.installed >> step & 1]


def first_needed(campaign: Campaign, step: int, needs: Callable[[FirmwareImage], bool]) -> int:
    """The first step from ``step`` on whose image is needed; the campaign's own always is."""
    while step < len(campaign.before) and not needs(campaign.before[step]):
        step += 1
    return step


def offer_name(execution: Execution) -> str:
    """The name of the offer at the execution's step: a device takes each step for an update of its own."""
    return f"{execution.id}{_STEP}{execution.step}" if execution.step else execution.id


def of_offer(name: str) -> tuple[str, int]:
    """The execution and the step that an offer's name means."""
    execution, mark, step = name.rpartition(_STEP)
    if not mark or not step.isdecimal() or len(step) > 3:
        return name, 0
    return execution, int(step)
