"""The rows of the wire table as an independent client sees them: curl over mutual TLS."""

import gzip
import hashlib

import pytest

from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Accepted, Dropped, PointRefusal, Rejected
from fleetcore.wire import messages

pytestmark = pytest.mark.peer("curl")

JSON = ("-H", "Content-Type: application/json")


async def test_readings_are_answered_204_after_the_commit(curl, plane):
    answer = await curl("/telemetry", *JSON, "-H", "Idempotency-Key: m-1", "-d", '{"t": 1.5}')

    assert (answer.status, answer.body) == (204, b"")
    [message] = plane.messages
    assert (message.type, message.subject, message.payload) == (messages.TELEMETRY, "dev1", b'{"t": 1.5}')
    assert (message.content_type, message.id) == ("application/json", "m-1")


async def test_a_partly_refused_batch_says_which_readings_and_why(curl, plane):
    plane.outcome = Accepted(stored=41, refused=(PointRefusal(3, "t", "time_in_future"),))

    answer = await curl("/telemetry", *JSON, "-d", "[]")

    assert answer.status == 200
    assert answer.json == {"stored": 41, "rejected": [{"index": 3, "metric": "t", "code": "time_in_future"}]}


async def test_a_wholly_refused_batch_is_422_with_each_reading(curl, plane):
    refused = (PointRefusal(0, "t", "unit_mismatch"), PointRefusal(1, "u", "time_unit"))
    plane.outcome = Rejected(code="payload_unreadable", reason="none is good", refused=refused)

    answer = await curl("/telemetry", *JSON, "-d", "[]")

    assert (answer.status, answer.json["stored"]) == (422, 0)
    assert [one["code"] for one in answer.json["rejected"]] == ["unit_mismatch", "time_unit"]


@pytest.mark.parametrize(
    ("method", "path", "operation", "target"),
    [
        ("POST", "/location", messages.LOCATION, None),
        ("PUT", "/location", messages.LOCATION, None),
        ("POST", "/status", messages.STATUS, None),
        ("POST", "/twin/ack", messages.TWIN_ACK, None),
        ("POST", "/commands/c-7/result", messages.COMMAND_RESULT, "c-7"),
        ("POST", "/firmware/status", messages.FIRMWARE_STATUS, None),
    ],
)
async def test_every_uplink_reaches_the_plane_as_its_operation(curl, plane, method, path, operation, target):
    answer = await curl(path, "-X", method, *JSON, "-d", "{}")

    assert answer.status == 204
    assert [(m.type, m.subject, m.target) for m in plane.messages] == [(operation, "dev1", target)]


@pytest.mark.parametrize("path", ["telemetry", "commands/c-7/result", "twin/ack", "firmware/status", "status"])
async def test_a_gateway_speaks_for_its_leaf_below_the_leaf_prefix(curl, plane, path):
    answer = await curl(f"/leaf/leaf1/{path}", *JSON, "-d", "{}")

    assert answer.status == 204
    assert [m.subject for m in plane.messages] == ["leaf1"]


@pytest.mark.parametrize(
    "path", ["telemetry", "twin", "twin/desired", "commands", "inbox", "time", "artifacts/" + "0" * 64]
)
async def test_a_foreign_leaf_in_the_path_is_refused(curl, plane, path):
    plane.command("foreign1", {"id": "c1"})
    options = (*JSON, "-d", "{}") if path == "telemetry" else ()

    answer = await curl(f"/leaf/foreign1/{path}", *options)

    assert (answer.status, answer.json["code"]) == (403, "not_your_device")
    assert answer.headers["content-type"] == "application/problem+json"
    assert plane.received == []


async def test_an_outdated_will_is_dropped_without_complaint(curl, plane):
    plane.outcome = Dropped(reason="an older session's will")

    assert (await curl("/status", *JSON, "-d", "{}")).status == 204


async def test_a_late_result_is_200_and_says_so(curl, plane):
    plane.outcome = Accepted(late=True)

    answer = await curl("/commands/c1/result", *JSON, "-d", "{}")

    assert (answer.status, answer.json) == (200, {"late": True})


@pytest.mark.parametrize(
    ("code", "status", "retry_after_s", "header"),
    [
        ("rate_limited", 429, 0.2, "1"),
        ("overloaded", 503, 2.4, "3"),
        ("storage_full", 507, None, "30"),
        ("command_finished", 409, None, None),
        ("command_unknown", 404, None, None),
        ("media_type_unsupported", 415, None, None),
        ("device_suspended", 403, None, None),
    ],
)
async def test_a_refusal_is_a_problem_with_its_status_and_when_to_retry(
    curl, plane, code, status, retry_after_s, header
):
    plane.outcome = Rejected(code=code, reason="because", retry_after_s=retry_after_s)

    answer = await curl("/telemetry", *JSON, "-d", "{}")

    assert (answer.status, answer.json["status"], answer.json["code"]) == (status, status, code)
    assert answer.headers.get("retry-after") == header
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_twin_is_read_with_an_etag_and_304_spares_the_body(curl, plane):
    plane.desire("dev1", 12, {"interval": 60})
    plane.report("dev1", 40, {})

    first = await curl("/twin")
    second = await curl("/twin", "-H", f"If-None-Match: {first.headers['etag']}")

    assert (first.status, first.headers["etag"], first.json["desired"]) == (200, '"d12.r40"', {"interval": 60})
    assert (second.status, second.body, second.headers["etag"]) == (304, b"", '"d12.r40"')


@pytest.mark.parametrize("tag", ['"d12.r40"', '"r40"', '"40"', "*"])
async def test_a_report_with_a_matching_if_match_is_taken(curl, plane, tag):
    plane.desire("dev1", 12, {})
    plane.report("dev1", 40, {})

    answer = await curl("/twin/reported", "-X", "PATCH", *JSON, "-H", f"If-Match: {tag}", "-d", '{"a": 1}')

    assert (answer.status, answer.headers["etag"]) == (204, '"d12.r41"')


@pytest.mark.parametrize("tag", ['"d12.r39"', '"someone else\'s"', 'W/"d12.r40"'])
async def test_a_report_on_another_version_is_412(curl, plane, tag):
    plane.report("dev1", 40, {})

    answer = await curl("/twin/reported", "-X", "PATCH", *JSON, "-H", f"If-Match: {tag}", "-d", '{"a": 1}')

    assert (answer.status, answer.json["code"]) == (412, "version_conflict")
    assert plane.reported("dev1") == {}


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/merge-patch+json", 204),
        ("application/json; charset=utf-8", 204),
        ("Application/JSON;Charset=UTF-8", 204),
        ("application/json; charset=utf-16", 415),
        ("application/json-patch+json", 415),
        ("text/plain", 415),
    ],
)
async def test_patch_takes_merge_patches_only(curl, media_type, status):
    answer = await curl("/twin/reported", "-X", "PATCH", "-H", f"Content-Type: {media_type}", "-d", '{"a": 1}')

    assert answer.status == status


async def test_polls_answer_what_waits_or_204(curl, plane):
    plane.desire("dev1", 3, {"x": 1})
    plane.command("dev1", {"id": "c1"})
    plane.offer("dev1", {"offer": {"version": "2"}})

    desired, known = await curl("/twin/desired?since=2"), await curl("/twin/desired?since=3")
    commands, firmware = await curl("/commands?wait=5"), await curl("/firmware?wait=0")
    inbox = await curl("/inbox?since=3&wait=1")

    assert (desired.status, desired.json["version"], known.status) == (200, 3, 204)
    assert commands.json == {"commands": [{"id": "c1"}], "more": False}
    assert firmware.json == {"offer": {"version": "2"}}
    assert set(inbox.json) == {"commands", "firmware"}


async def test_every_answer_names_what_waits(curl, plane):
    plane.desire("dev1", 13, {})
    for command in ("c1", "c2"):
        plane.command("dev1", {"id": command})
    sha = plane.put_artifact(b"image")
    plane.outcomes = [Accepted(stored=1), Rejected(code="schema_invalid", reason="no")]

    answers = [await curl("/telemetry", *JSON, "-d", "{}") for _ in range(2)]
    answers += [await curl(path) for path in ("/twin", f"/artifacts/{sha}", "/time", "/nowhere/at/all")]

    assert [a.headers.get("fleetcore-pending") for a in answers[:5]] == ["commands=2, desired=13"] * 5
    assert "fleetcore-pending" not in answers[5].headers


async def test_time_echoes_the_clients_and_is_not_cached(curl):
    answer = await curl("/time?client=123")

    assert (answer.status, answer.json["client"]) == (200, 123)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("query", ["wait=56", "wait=-1", "wait=1.5", "wait=%D9%A1", "since=x", "since=" + "9" * 30])
async def test_a_wait_outside_0_to_55_whole_seconds_is_refused(curl, query):
    answer = await curl(f"/inbox?{query}")

    assert (answer.status, answer.json["code"]) == (422, "schema_invalid")


async def test_discovery_and_the_ca_bundle_are_open_to_everybody(curl, authority):
    found, ca, own = await curl("/", device=None), await curl("/ca", device=None), await curl("/")

    assert (found.status, found.json["limits"]["message_bytes"]) == (200, Limits().message_bytes)
    assert "device" not in found.json
    assert own.json["device"] == "dev1"
    assert ca.json == {"ca": authority.pem.decode()}


async def test_a_leaf_is_registered(curl, plane):
    answer = await curl("/leaf", *JSON, "-d", '{"device": "leaf9"}')

    assert (answer.status, answer.json) == (201, {"device": "leaf9", "gateway": "dev1"})


async def test_no_credential_is_401_and_names_the_scheme(curl):
    answer = await curl("/twin", device=None)

    assert (answer.status, answer.json["code"]) == (401, "not_authenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_device_token_is_a_credential(curl, plane):
    good = await curl("/twin", "-H", f"Authorization: Bearer {plane.token('dev1')}", device=None)
    bad = await curl("/twin", "-H", "Authorization: Bearer fc_dev_dev1_guess", device=None)
    other = await curl("/twin", "-H", "Authorization: Basic ZGV2MTp4", device=None)

    assert [good.status, bad.status, other.status] == [200, 401, 401]


async def test_gzip_is_inflated(curl, plane, tmp_path):
    (tmp_path / "body").write_bytes(gzip.compress(b'{"t": 1}'))

    answer = await curl("/telemetry", *JSON, "-H", "Content-Encoding: gzip", "--data-binary", f"@{tmp_path / 'body'}")

    assert answer.status == 204
    assert plane.messages[0].payload == b'{"t": 1}'


async def test_an_artifact_comes_whole_and_cannot_be_taken_for_a_page(curl, plane):
    content = bytes(range(256)) * 300
    sha = plane.put_artifact(content)

    answer = await curl(f"/artifacts/{sha}")

    assert (answer.status, hashlib.sha256(answer.body).hexdigest()) == (200, sha)
    assert (answer.headers["etag"], answer.headers["accept-ranges"]) == (f'"{sha}"', "bytes")
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("header", "status", "content_range", "body"),
    [
        ("bytes=0-3", 206, "bytes 0-3/10", b"0123"),
        ("bytes=4-", 206, "bytes 4-9/10", b"456789"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=-99", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=8-99", 206, "bytes 8-9/10", b"89"),
        ("bytes=10-", 416, "bytes */10", None),
        ("bytes=99-100", 416, "bytes */10", None),
        ("bytes=-0", 416, "bytes */10", None),
        ("bytes=" + ",".join(["0-9"] * 1000), 416, "bytes */10", None),
        ("bytes=5-4", 200, None, b"0123456789"),
        ("bytes=x-y", 200, None, b"0123456789"),
        ("lines=0-1", 200, None, b"0123456789"),
    ],
)
async def test_one_range_is_served_and_anything_else_refused_or_ignored(
    curl, plane, header, status, content_range, body
):
    sha = plane.put_artifact(b"0123456789", piece_bytes=3)

    answer = await curl(f"/artifacts/{sha}", "-H", f"Range: {header}")

    assert (answer.status, answer.headers.get("content-range")) == (status, content_range)
    assert body is None or answer.body == body


async def test_preconditions_on_an_artifact(curl, plane):
    sha = plane.put_artifact(b"0123456789")
    part = ("-H", "Range: bytes=5-")

    same = await curl(f"/artifacts/{sha}", *part, "-H", f'If-Range: "{sha}"')
    other = await curl(f"/artifacts/{sha}", *part, "-H", 'If-Range: "0000"')
    dated = await curl(f"/artifacts/{sha}", *part, "-H", "If-Range: Wed, 21 Oct 2026 07:28:00 GMT")
    known = await curl(f"/artifacts/{sha}", "-H", f'If-None-Match: "x", W/"{sha}"')

    assert [same.status, other.status, dated.status, known.status] == [206, 200, 200, 304]


async def test_head_of_an_artifact_has_the_headers_alone(curl, plane):
    sha = plane.put_artifact(b"0123456789")

    answer = await curl(f"/artifacts/{sha}", "-I", "-H", "Range: bytes=0-3")

    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "10", b"")


@pytest.mark.parametrize("name", ["0" * 64, "..%2F..%2Fetc%2Fpasswd", "a%00b", "x" * 4096, "%ff"])
async def test_an_artifact_that_is_not_offered_is_404(curl, name):
    answer = await curl(f"/artifacts/{name}")

    assert answer.status in {404, 422}
    assert answer.headers["content-type"] == "application/problem+json"


async def test_an_expectation_is_answered_before_the_body(curl, plane):
    answer = await curl("/telemetry", *JSON, "-H", "Expect: 100-continue", "-d", '{"t": 1}')

    assert answer.status == 204
    assert plane.messages[0].payload == b'{"t": 1}'


@pytest.mark.parametrize(("method", "allow"), [("DELETE", "POST"), ("GET", "POST"), ("OPTIONS", "POST")])
async def test_another_method_is_405_and_names_the_right_one(curl, method, allow):
    answer = await curl("/telemetry", "-X", method)

    assert (answer.status, answer.json["status"], answer.headers["allow"]) == (405, 405, allow)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/logs", 404), ("/telemetry/", 404), ("/leaf/leaf1", 404), ("/leaf//twin", 422), ("/twin%2Fdesired", 404)],
)
async def test_an_unknown_path_is_a_problem_and_no_page(curl, path, status):
    answer = await curl(path)

    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_what_waits_for_a_leaf_is_told_to_its_gateway_alone(curl, plane):
    await curl("/leaf/leaf1/telemetry", *JSON, "-d", "{}")
    await curl("/leaf/foreign1/twin/reported", "-X", "PATCH", "-H", "Content-Type: text/plain", "-d", "x")

    assert plane.pending_asked == ["leaf1", "dev1"]
