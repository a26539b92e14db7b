"""The refusals of AWS, for both simulated services: names, sizes, depths and counts; boto3 checks no patterns.

Each rule is from the API reference of its operation or from the quotas (:mod:`fleetcore_aws.actions`). They are
deliberately written independently of the connector, because a shared mistake would not be found.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcore.testing.http1 import Answer
from fleetcore_aws.testing.operations import Call

_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
_JOB = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SHADOW_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,64}")
_ATTRIBUTE_NAME = re.compile(r"[a-zA-Z0-9_.,@/:#-]{1,128}")
_ATTRIBUTE_VALUE = re.compile(r"[a-zA-Z0-9_.,@/:#-]{0,800}")
_CERTIFICATE = re.compile(r"(0x)?[a-fA-F0-9]{64}")
_POLICY = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class RefusedByAws(Exception):
    """An error answer."""

    def __init__(self, code: str, message: str, status: int = 400, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.retry_after_s = code, message, status, retry_after_s

    def answer(self) -> Answer:
        """The answer in the services' form: the code in a header and in the body."""
        body = json.dumps({"__type": self.code, "message": self.message, "Message": self.message}).encode()
        headers = {"x-amzn-errortype": self.code}
        if self.retry_after_s:
            headers["retry-after"] = f"{self.retry_after_s:g}"
        return Answer(status=self.status, body=body, headers=headers)


def invalid(message: str) -> RefusedByAws:
    """The request can never succeed."""
    return RefusedByAws("InvalidRequestException", message)


def missing(message: str) -> RefusedByAws:
    """There is no such object."""
    return RefusedByAws("ResourceNotFoundException", message, 404)


def check(call: Call) -> None:
    """Raises :class:`RefusedByAws` for what AWS refuses in any state."""
    operation, document = call.operation, call.document
    of_job = "Job" in operation and not call.job
    job = call.name if of_job else call.job
    if job and not _JOB.fullmatch(job):
        raise invalid(f"1 validation error: jobId {job!r} does not match [a-zA-Z0-9_-]+ of 64")
    pattern = _CERTIFICATE if "Certificate" in operation else _POLICY if "Policy" in operation else _NAME
    if operation != "Publish" and not of_job and call.name and not pattern.fullmatch(call.name):
        raise invalid(f"1 validation error: name {call.name!r} does not match {pattern.pattern}")
    if operation == "RegisterCertificateWithoutCA":
        certificate_id(document.get("certificatePem", ""))
    if operation == "UpdateCertificate" and call.request.query.get("newStatus") not in {
        "ACTIVE",
        "INACTIVE",
        "REVOKED",
    }:
        raise invalid("1 validation error: newStatus")
    if operation in {"CreateThing", "UpdateThing"}:
        attributes = document.get("attributePayload", {}).get("attributes", {})
        _attributes(attributes)
        typed = document.get("thingTypeName") is not None
        if operation == "CreateThing" and len(attributes) > (50 if typed else 3):
            raise invalid(f"{len(attributes)} attributes are too many")
    if operation in {"CreateThingGroup", "UpdateThingGroup"}:
        properties = document.get("thingGroupProperties", {})
        _attributes(properties.get("attributePayload", {}).get("attributes", {}))
        description = properties.get("thingGroupDescription", "")
        if len(description) > 2028 or _CONTROL.search(description):
            raise invalid("thingGroupDescription is too long or has control characters")
    if operation in {"CreateJob", "UpdateJob"}:
        description = document.get("description", "")
        if len(description) > 2028 or any(unicodedata.category(each).startswith("C") for each in description):
            raise invalid("description is too long or has control characters")
        if len(document.get("document", "").encode()) > 32768:
            raise invalid("document is too large")
    if call.job:
        _execution(document)
    if operation == "Publish" and (
        len(call.request.body) > 128 * 1024 or len(call.name.encode()) > 256 or call.name.count("/") > 7
    ):
        raise invalid("payload or topic is too large")
    if operation.endswith("ThingShadow") and not _SHADOW_NAME.fullmatch(call.request.query.get("name", "classic")):
        raise invalid("the shadow's name does not match [a-zA-Z0-9:_-]+ of 64")
    if operation == "UpdateThingShadow":
        shadow(call.request.body)


def _execution(document: Mapping[str, Any]) -> None:
    """Statuses that can be written, and status details (quotas of AWS IoT jobs; API reference, JobExecutionState)."""
    if document.get("status", "IN_PROGRESS") not in {"IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"}:
        raise invalid(f"status {document['status']!r} cannot be written")
    details = document.get("statusDetails", {})
    if len(details) > 10:
        raise invalid(f"{len(details)} status details are too many")
    for name, value in details.items():
        if not _NAME.fullmatch(name):
            raise invalid(f"the status detail's name {name!r} does not match [a-zA-Z0-9:_-]+ of 128")
        if not 1 <= len(value) <= 1024 or any(unicodedata.category(each).startswith("C") for each in value):
            raise invalid(f"the status detail {name} does not match [^\\p{{C}}]+ of 1024")


def certificate_id(pem: str) -> str:
    """AWS's id of a certificate: SHA-256 of its DER. Raises if AWS refuses it (guide, client certificates)."""
    refused = RefusedByAws("CertificateValidationException", "The certificate is not valid")
    if len(pem) > 65_536 or pem.count("-----BEGIN") != 1:
        raise refused
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise refused from None
    key = certificate.public_key()
    strong_rsa = isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048
    curves = {"secp256r1", "secp384r1", "secp521r1"}
    if not strong_rsa and not (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in curves):
        raise refused
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _attributes(attributes: Mapping[str, object]) -> None:
    for name, value in attributes.items():
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise invalid(f"attribute name {name!r} does not match [a-zA-Z0-9_.,@/:#-]+ of 128")
        if not isinstance(value, str) or not _ATTRIBUTE_VALUE.fullmatch(value):
            raise invalid(f"attribute value {value!r} does not match [a-zA-Z0-9_.,@/:#-]* of 800")


def shadow(payload: bytes) -> None:
    """What the Device Shadow service refuses of an update in any state (guide, device shadow error messages)."""
    try:
        document = json.loads(payload)
    except ValueError:
        raise invalid("Invalid JSON") from None
    state = document.get("state") if isinstance(document, dict) else None
    if not isinstance(state, dict):
        raise invalid("Missing required node: state")
    if state.keys() - {"desired", "reported"}:
        raise invalid("State contains an invalid node")
    if any(_levels(section) > 5 for section in state.values()):
        raise invalid("JSON contains too many levels of nesting; maximum is 6")
    if _null_in_array(state, inside=False):
        raise invalid("Arrays can't have null values")
    large(without_nulls(state))


def large(state: Mapping[str, Any]) -> None:
    """Raises if a state has more than 8 kB."""
    if len(json.dumps(state, separators=(",", ":"), ensure_ascii=False).encode()) > 8192:
        raise RefusedByAws("RequestEntityTooLargeException", "The payload exceeds the maximum size allowed", 413)


def _levels(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((_levels(each) for each in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_levels(each) for each in value), default=0)
    return 0


def _null_in_array(value: object, *, inside: bool) -> bool:
    if isinstance(value, dict):
        return any(_null_in_array(each, inside=inside) for each in value.values())
    if isinstance(value, list):
        return any(_null_in_array(each, inside=True) for each in value)
    return inside and value is None


def without_nulls(value: Any) -> Any:
    """A state as it is stored: without null members and empty objects."""
    if not isinstance(value, dict):
        return value
    kept = {key: without_nulls(each) for key, each in value.items() if each is not None}
    return {key: each for key, each in kept.items() if each != {}}
