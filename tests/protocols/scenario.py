"""One scenario for every protocol: what a gateway says, what it is told, what is refused, and what is stored in the end.

A step is judged here, once: the same answer and the same refusal are expected over every protocol.
"""

import json

from fleetcore.wire import matrix, messages
from fleetcore.wire.identity import make_csr, make_key
from tests.protocols.conftest import FOREIGN, GATEWAY, IMAGE, LEAF, SHA256

#: 2026-01-31T12:00:00Z: readings have their own times, so that each protocol stores the same.
T0 = 1_769_860_800_000


async def readings(peer, operator):
    """Readings: stored, repeated, of a leaf, refused in part and whole."""
    first = {"time": T0, "values": {"temperature": 21.5, "door": True, "mode": "eco"}}
    assert await refused(peer.say(messages.TELEMETRY, first, id="m-1")) == ""
    assert await refused(peer.say(messages.TELEMETRY, first, id="m-1")) == ""
    assert await refused(peer.say(messages.TELEMETRY, {"time": T0, "values": {"level": 7}}, leaf=LEAF)) == ""
    with_unit = {"metric": "pressure", "value": 3.0, "unit": "bar", "time": T0}
    assert await refused(peer.say(messages.TELEMETRY, with_unit)) == ""
    assert (
        await refused(peer.say(messages.TELEMETRY, {**with_unit, "unit": "celsius", "time": T0 + 1})) == "unit_mismatch"
    )
    assert await refused(peer.say(messages.TELEMETRY, b'{"temperature": 1, "temperature": 2}')) == "payload_unreadable"
    assert await refused(peer.say(messages.TELEMETRY, {"time": T0, "values": {"t": 1}, "ts": 5})) == "schema_invalid"
    assert await refused(peer.say(messages.TELEMETRY, {"time": T0 // 1000, "values": {"t": 1}})) == "time_unit"
    assert await refused(peer.say(messages.TELEMETRY, {"t": 1}, leaf=FOREIGN)) == "not_your_device"


async def itself(peer, operator):
    """What a device says of itself, with the bounds of its body."""
    assert await refused(peer.say(messages.LOCATION, {"lat": 37.7749, "lon": -122.4194, "time": T0})) == ""
    assert await refused(peer.say(messages.LOCATION, {"lat": 95, "lon": 0, "time": T0})) != ""
    assert await refused(peer.say(messages.STATUS, {"state": "sleeping", "for_s": 1e12})) == "limit_exceeded"
    assert await refused(peer.say(messages.STATUS, {"state": "online", "session": "k9"})) == ""
    asked = await peer.say(messages.TIME, {"client": 5})
    assert asked.body["client"] == 5


async def twins(peer, operator):
    """The twin: reported, read, desired, acknowledged; a report that expects another version."""
    assert await refused(peer.say(messages.TWIN_REPORT, {"interval": 30})) == ""
    assert await refused(peer.say(messages.TWIN_REPORT, {"interval": 40}, reported=7)) == "version_conflict"
    assert await refused(peer.say(messages.TWIN_REPORT, {"mode": "eco"}, reported=1)) == ""
    await operator("set_desired", device_id=GATEWAY, patch={"interval": 60})
    desired = await peer.told(messages.TWIN_DESIRED)
    assert desired["patch"] == {"interval": 60}
    twin = (await peer.say(messages.TWIN_GET)).body
    assert (twin["desired"], twin["reported"]) == ({"interval": 60}, {"interval": 30, "mode": "eco"})
    ack = {"version": desired["version"], "refused": {"/interval": {"code": "out_of_range", "reason": "min 90"}}}
    assert await refused(peer.say(messages.TWIN_ACK, ack)) == ""
    assert await refused(peer.say(messages.TWIN_ACK, {"version": 99})) != ""


async def commands(peer, operator):
    """A command: told until it is answered, answered once; one that is cancelled; answers to none."""
    sent = await operator("send_command", device_id=GATEWAY, name="reboot", args={"delay": 1})
    for seconds in (0, 6):  # told again to a device that comes again, for it may have lost what it was told
        await operator.advance(seconds)
        (told,) = (await peer.told(messages.COMMAND))["commands"]
        assert (told["id"], told["name"], told["args"]) == (sent["id"], "reboot", {"delay": 1})
    result = {"status": "succeeded", "output": {"uptime_s": 4}}
    assert await refused(peer.say(messages.COMMAND_RESULT, {"status": "running"}, target=sent["id"])) == ""
    assert await refused(peer.say(messages.COMMAND_RESULT, result, target=sent["id"])) == ""
    assert await refused(peer.say(messages.COMMAND_RESULT, result, target=sent["id"])) == ""
    failed = {"status": "failed", "code": "x", "reason": "y"}
    assert await refused(peer.say(messages.COMMAND_RESULT, failed, target=sent["id"])) == "command_finished"
    assert await refused(peer.say(messages.COMMAND_RESULT, result, target="no-such-command")) == "command_unknown"


async def firmware(peer, operator):
    """Firmware: offered, downloaded where the protocol carries bytes, reported; a report for no execution."""
    await operator("create_campaign", id="spring", release="2.0.0", devices=[GATEWAY], sha256=SHA256, size=len(IMAGE))
    offer = (await peer.told(messages.FIRMWARE))["offer"]
    assert (offer["version"], offer["sha256"]) == ("2.0.0", SHA256)
    execution = offer["execution"]
    assert await refused(peer.say(messages.FIRMWARE_STATUS, {"execution": execution, "state": "downloading"})) == ""
    unknown = {"execution": "0197a2c5-0b7d-7e52-9d5f-2f1f6c0f9a01", "state": "downloading"}
    assert await refused(peer.say(messages.FIRMWARE_STATUS, unknown)) == "execution_unknown"


async def artifacts(peer, operator):
    """Bytes by their digest."""
    assert (await peer.say(messages.ARTIFACT, target=SHA256)).body == IMAGE
    assert await refused(peer.say(messages.ARTIFACT, target="0" * 64)) == "artifact_unknown"


async def belonging(peer, operator):
    """Certificates and leaves: the CA, a renewal, a leaf of its own, one that is another's."""
    bundle = (await peer.say(messages.CA_GET)).body
    assert "BEGIN CERTIFICATE" in (bundle if isinstance(bundle, str) else json.dumps(str(bundle)))
    csr = make_csr(GATEWAY, make_key()[1]).decode()
    renewed = await peer.say(messages.CERTIFICATE_RENEW, {"csr": csr})
    assert renewed.body["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    assert await refused(peer.say(messages.CERTIFICATE_RENEW, {"csr": make_csr(FOREIGN, make_key()[1]).decode()})) != ""
    assert await refused(peer.say(messages.LEAF_REGISTER, {"device": LEAF, "type": "valve"})) == ""
    assert await refused(peer.say(messages.LEAF_REGISTER, {"device": FOREIGN, "type": "valve"})) != ""
    assert LEAF in str((await peer.say(messages.LEAF_LIST, {})).body)


async def alerts(peer, operator):
    """An alert of the device, twice: it is listed once."""
    alert = {**messages.EVENTS.example, "time": 1_767_225_600_000, "metric": "bearing"}
    assert await refused(peer.say(messages.EVENTS, alert)) == ""
    assert await refused(peer.say(messages.EVENTS, alert)) == ""
    found = [each for each in await operator("list_anomalies", device=GATEWAY) if each["metric"] == "bearing"]
    assert [(each["detector"], each["observed"]) for each in found] == [("overheated", 91.5)]
    assert await refused(peer.say(messages.EVENTS, {**alert, "metric": "no metric"})) != ""


async def waiting(peer, operator):
    """All that waits, at once; a command that is cancelled after the device has it."""
    sent = await operator("send_command", device_id=GATEWAY, name="blink")
    inbox = (await peer.say(messages.INBOX)).body
    assert [told["id"] for told in inbox["commands"]["commands"]] == [sent["id"]]
    cancelling = operator("cancel_command", command=sent["id"])
    if matrix.cell(messages.COMMAND_CANCEL, peer.protocol).carried:
        assert (await peer.told_while(messages.COMMAND_CANCEL, operator.listening, cancelling))["id"] == sent["id"]
    else:
        await cancelling
        (told,) = (await peer.told(messages.COMMAND))["commands"]
        assert told["cancel"] is True
    assert await refused(peer.say(messages.COMMAND_RESULT, {"status": "cancelled"}, target=sent["id"])) == ""


STEPS = (readings, itself, twins, commands, firmware, belonging, alerts, waiting)


async def refused(saying) -> str:
    """The code that a message was refused with, or empty."""
    return (await saying).code
