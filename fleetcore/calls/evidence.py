"""The answer about the evidence of a campaign's health gate."""

from fleetcore.calls.responses.campaigns import (
    BadDeviceResponse,
    CampaignEvidenceResponse,
    EvidencePointResponse,
    RuleEvidenceResponse,
    WaveEvidenceResponse,
)
from fleetcore.calls.types import Ms
from fleetcore.errors import NotFound
from fleetcore.fleet.gate_evidence import evidence_of
from fleetcore.model.firmware import Campaign
from fleetcore.model.gate import Observation
from fleetcore.rollout.gate import in_words
from fleetcore.runtime.app import Fleet

#: Digits of an e-value.
_DIGITS = 3


async def evidence_response(fleet: Fleet, campaign: Campaign) -> CampaignEvidenceResponse:
    """What the gate of a campaign has seen; raises NotFound for one without a gate."""
    gate = campaign.rollout.gate
    if gate is None:
        raise NotFound(
            f"The campaign {campaign.id!r} has no health gate", remedy="Make it with gate_window_s",
            campaign=campaign.id,
        )  # fmt: skip
    found = await evidence_of(fleet.health_gates, campaign)
    return CampaignEvidenceResponse(
        campaign=campaign.id, state=campaign.state, code=campaign.code, summary=in_words(found.score, gate),
        e_value=round(found.e_value, _DIGITS), limit=round(1 / gate.alpha, _DIGITS),
        waves=[
            WaveEvidenceResponse(
                wave=wave.wave, observing=wave.observing, uncompared=wave.uncompared, updated=wave.updated,
                updated_bad=wave.updated_bad, controls=wave.controls, controls_bad=wave.controls_bad,
                matching=dict(wave.matching),
            )
            for wave in found.waves
        ],
        rules=[RuleEvidenceResponse(rule, updated, others) for rule, (updated, others) in found.rules.items()],
        worst=[_bad(each) for each in found.worst],
        points=[EvidencePointResponse(number, round(value, _DIGITS), bad) for number, value, bad in found.points],
    )  # fmt: skip


def _bad(observation: Observation) -> BadDeviceResponse:
    controls = observation.controls
    return BadDeviceResponse(
        device=observation.device, wave=observation.wave, updated_at=Ms(observation.since),
        reasons=list(observation.reasons), matching=str(observation.matching), controls=len(controls),
        controls_bad=sum(bool(control.rules) for control in controls),
    )  # fmt: skip
