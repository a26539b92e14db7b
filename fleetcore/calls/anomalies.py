"""Anomalies: the findings of detectors."""

from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, missing
from fleetcore.calls.responses.anomalies import AnomalyResponse
from fleetcore.calls.table import BY_CALL, call
from fleetcore.calls.telemetry import OfDevice
from fleetcore.calls.types import Cursor, Limit, Names, Page, to_response
from fleetcore.model.anomaly import Anomaly
from fleetcore.model.operator import Permission

NewestFirst = Annotated[bool, Meta(description="Whether the newest reading comes first.")]
AnomalyId = Annotated[
    str, Meta(min_length=1, max_length=64, description="The anomaly's id."), Names("list_anomalies", short=True)
]


def _anomaly(anomaly: Anomaly) -> AnomalyResponse:
    return to_response(AnomalyResponse, anomaly)


@call(
    "GET /anomalies", Permission.DEVICES_READ, scope=BY_CALL, cli="telemetry anomalies DEVICE",
    columns=("id", "time", "device", "metric", "observed", "expected", "score", "severity", "detector", "explanation"),
)  # fmt: skip
async def list_anomalies(
    caller: Caller,
    device: OfDevice | None = None,
    *,
    newest: NewestFirst = False,
    limit: Limit = 100,
    cursor: Cursor | None = None,
) -> Page[AnomalyResponse]:
    """Lists the anomalies of one device or of all, the oldest reading first.

    Raises:
        NotFound: there is no such device.
    """
    if device is not None:
        await caller.device(device)
    ref = None if device is None else ("device", device)
    records = caller.fleet.anomalies.records
    return await caller.page(records, lambda record: record.device, _anomaly, cursor, limit, ref=ref, newest=newest)


@call("GET /anomalies/{anomaly}", Permission.DEVICES_READ, scope=BY_CALL, cli="telemetry anomaly ANOMALY")
async def get_anomaly(caller: Caller, anomaly: AnomalyId) -> AnomalyResponse:
    """Shows an anomaly.

    Raises:
        NotFound: there is no such anomaly.
    """
    caller.asked = True
    found = await caller.fleet.anomalies.get(anomaly)
    if found is None:
        raise missing("anomaly", anomaly)
    await caller.item(found.device, "anomaly", anomaly)
    return _anomaly(found)
