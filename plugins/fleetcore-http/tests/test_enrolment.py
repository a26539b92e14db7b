"""The forms in which a certificate request may come, and those that are refused."""

from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore.model.message import Reply

pytestmark = pytest.mark.peer("curl")

JSON = ("-H", "Content-Type: application/json")
PKCS10 = ("-H", "Content-Type: application/pkcs10")


@pytest.fixture
def request_pem(csr) -> str:
    return csr.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize("form", ["pem", "der", "base64"])
async def test_pkcs10_comes_as_pem_der_or_base64_with_the_token_as_bearer(curl, plane, csr, tmp_path, form):
    der, pem = csr.public_bytes(Encoding.DER), csr.public_bytes(Encoding.PEM)
    (tmp_path / "csr").write_bytes({"pem": pem, "der": der, "base64": b64encode(der)}[form])
    bearer = ("-H", "Authorization: Bearer fc_enr_x")

    answer = await curl("/enroll", *PKCS10, *bearer, "--data-binary", f"@{tmp_path / 'csr'}", device=None)

    assert (answer.status, answer.json["certificate"]) == (201, "PEM")
    assert (plane.enrollments[0].csr, plane.enrollments[0].token) == (pem, "fc_enr_x")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("{", 400, "payload_unreadable"),
        ("[]", 422, "schema_invalid"),
        ("{}", 422, "schema_invalid"),
        ('{"csr": 1}', 422, "schema_invalid"),
        ('{"csr": "x", "token": 1}', 422, "schema_invalid"),
        ('{"csr": "x", "parameters": []}', 422, "schema_invalid"),
        ('{"csr": "x", "csr": "y"}', 400, "payload_unreadable"),
        ('{"csr": "x", "parameters": {"a": NaN}}', 400, "payload_unreadable"),
        ("[" * 100_000, 400, "payload_unreadable"),
    ],
)
async def test_a_body_of_another_form_is_refused(curl, plane, tmp_path, body, status, code):
    (tmp_path / "body").write_text(body)

    answer = await curl("/enroll", *JSON, "--data-binary", f"@{tmp_path / 'body'}", device=None)

    assert (answer.status, answer.json["code"]) == (status, code)
    assert plane.enrollments == []


async def test_another_media_type_and_another_encoding_are_refused(curl):
    typed = await curl("/enroll", "-H", "Content-Type: text/plain", "-d", "{}", device=None)
    coded = await curl("/enroll", *PKCS10, "-d", "$$$", device=None)

    assert (typed.status, coded.status, coded.json["code"]) == (415, 422, "csr_invalid")


async def test_pending_is_202_and_refusals_keep_their_status(curl, plane, request_pem, tmp_path):
    (tmp_path / "csr").write_text(request_pem)
    answers = []
    for reply in (
        Reply(status=202, body={"state": "pending"}),
        Reply(status=401, error={"code": "token_spent", "status": 401}),
        Reply(status=409, error={"code": "key_in_use", "status": 409}),
        Reply(status=429, error={"code": "quota_exceeded", "status": 429, "retry_after_s": 9}),
    ):
        plane.enroll_reply = reply
        answers.append(await curl("/enroll", *PKCS10, "--data-binary", f"@{tmp_path / 'csr'}", device=None))

    assert [a.status for a in answers] == [202, 401, 409, 429]
    assert [a.headers.get("retry-after") for a in answers] == ["60", None, None, "9"]


async def test_renewing_takes_pkcs10_or_json(curl, plane, request_pem, tmp_path):
    (tmp_path / "csr").write_text(request_pem)

    raw = await curl("/certificates/renew", *PKCS10, "--data-binary", f"@{tmp_path / 'csr'}")
    json = await curl("/certificates/renew", *JSON, "-d", '{"csr": "PEM"}')

    assert (raw.status, json.status) == (201, 201)
    assert b"BEGIN CERTIFICATE REQUEST" in plane.arrived[0].message.payload
    assert {m.content_type for _, m in plane.arrived} == {"application/json"}
