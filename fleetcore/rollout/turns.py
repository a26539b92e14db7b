"""The order in which the devices of a campaign get their places.

It follows a digest of campaign and device: consecutive ids are often of one site or type, and in another campaign other
devices come first. The digest's first digits are the turn, through which a store finds the next devices; a turn has
some hundred of them, however large the campaign.
"""

import hashlib
from collections.abc import Sequence

from fleetcore.model.firmware import Campaign, Execution

#: After all others: devices that had a place and did not fetch their offer in time.
MISSED = "missed"
#: Devices for each turn, in the mean, before turns get another digit.
_PER_TURN = 500


def digest_of(execution: str) -> str:
    """The digest of an execution's id, in hex."""
    return hashlib.sha256(execution.encode()).hexdigest()


def turn_digits(total: int) -> int:
    """The digits of a turn in a campaign, by its number of devices."""
    digits = 0
    while total > _PER_TURN * 16**digits:
        digits += 1
    return digits


def digits_of(campaign: Campaign) -> int:
    """The digits of the turns of a campaign's devices, also of those that come later."""
    return turn_digits(campaign.total) if campaign.turn_digits is None else campaign.turn_digits


def turn(execution: Execution) -> str:
    """The turn of an execution."""
    return MISSED if execution.missed else digest_of(execution.id)[: execution.turn_digits]


def all_turns(digits: int) -> Sequence[str]:
    """The turns in their order."""
    return [*(f"{number:0{digits}x}" if digits else "" for number in range(16**digits)), MISSED]
