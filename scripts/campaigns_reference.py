"""docs/reference/campaigns.md, made from the table of states by which the engine moves an execution."""

from fleetcore.model.eligibility import Hold
from fleetcore.model.firmware import EXECUTION_ENDS, CampaignState, ExecutionState
from fleetcore.rollout.executions import TRANSITIONS, Cause

_HEAD = """# Campaigns

You see from these tables which states a campaign and its devices can be in, and what may follow each.
[Update devices in waves](../how-to/update-in-waves.md) is the page for a campaign of your own.

```console
$ fleetcore campaign executions pumps-2.1
device  state    progress  attempt  changed  code  reason
pump-1  waiting                  1  4 s ago
pump-2  waiting                  1  4 s ago
```

## The campaign

"""
_CAMPAIGN = {
    CampaignState.DRAFT: "Its image is not pinned yet: `code` says why. Nothing is offered.",
    CampaignState.AWAITING_APPROVAL: "Another person than the one who made it has to approve it.",
    CampaignState.SCHEDULED: "It begins at `starts_at`.",
    CampaignState.RUNNING: "Its devices get their offers.",
    CampaignState.PAUSED: "No new offers, by an operator or by itself (`code`). Devices that have begun go on.",
    CampaignState.SUCCEEDED: "Every device has ended, and one at least has succeeded or ran the version already.",
    CampaignState.FAILED: "Every device has ended, and none has succeeded.",
    CampaignState.ABORTED: "Devices that had not begun were cancelled.",
    CampaignState.ROLLED_BACK: "Devices that have the new version get the one before, by `NAME-rollback`.",
}
_EXECUTIONS = """
## A device in it

The states that may follow: **bold** for those that the device reports, *italic* for time-outs, plain for decisions of
the campaign. An update under way may also end by `cancelled` when its device is retired.

| state | what may follow |
|---|---|
"""
_HOLD = {
    Hold.OUTSIDE_WINDOW: "until its next window opens",
    Hold.FROZEN: "until the freeze that covers it ends, or is removed",
    Hold.START_SPREAD: "for its share of the spread",
    Hold.REQUIREMENT_UNMET: "until the requirement selects it; judged every 15 minutes",
    Hold.BATTERY_LOW: "until its battery is charged enough, or charges; judged every 15 minutes",
    Hold.CONSENT_MISSING: "until its user agrees",
    Hold.CAMPAIGN_PAUSED: "with its image until the campaign is resumed; judged every 15 minutes",
}
_FORM = {Cause.DEVICE: "**{}**", Cause.TIME: "*{}*", Cause.SERVER: "{}"}
_TAIL = """
`waiting` after a failure is the next attempt. `succeeded` becomes `reverted` if the device reports the version before
again. `cancelled` becomes `waiting` in a continuous campaign, when its query selects the device again. A device that
may not begin yet stays `waiting`, one that may not install `downloaded`; a code says why:

| code | the device waits |
|---|---|
"""


def page() -> str:
    """The page."""
    campaigns = "".join(f"| `{state}` | {_CAMPAIGN[state]} |\n" for state in CampaignState)
    rows = "".join(_row(state) for state in ExecutionState)
    holds = "".join(f"| `{hold}` | {_HOLD[hold]} |\n" for hold in Hold)
    return f"{_HEAD}| state | meaning |\n|---|---|\n{campaigns}{_EXECUTIONS}{rows}{_TAIL}{holds}"


def _row(state: ExecutionState) -> str:
    following = ", ".join(_FORM[cause].format(to) for to, cause in TRANSITIONS[state].items()) or "nothing"
    end = " (end)" if state in EXECUTION_ENDS else ""
    return f"| `{state}`{end} | {following} |\n"
