"""The errors that fleetcore raises, with a code and a remedy.

    FleetError                      root; catch this to catch all of ours
    ├── NotFound                    the named thing does not exist
    ├── Conflict                    it exists already, or it was changed meanwhile
    │   ├── VersionConflict         compare-and-set lost; read again and retry
    │   └── IllegalTransition       the state machine has no such move
    ├── Refused                     the request is understood and not acceptable (bad input, limit, rights)
    │   ├── NotAuthenticated        no valid credential
    │   └── NotAuthorised           a valid identity that may not do this
    ├── Unavailable                 a temporary state; carries ``retry_after_s``
    │   └── NotReady                a plugin cannot open yet; the supervisor tries again
    ├── ConfigError                 a mistake in fleet.toml or the environment; carries file and line
    ├── CredentialsRejected         a remote system refused our credentials; a person must act
    ├── PluginError                 a plugin raised, hung or broke its promise
    ├── StorageError                the store failed; nothing of the commit is stored
    ├── DataFolderInUse             another process owns the data folder
    └── WrongLoop                   a manager was used from another event loop

Bad input from a device is an outcome (:mod:`fleetcore.model.message`), not an exception: these are for callers. Codes
are stable: ``CODES`` is their registry, listed in docs/reference/errors.md.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from attrs import frozen


@frozen
class Code:
    """One stable error code, and its form in each protocol.

    Attributes:
        http: HTTP status (RFC 9110).
        coap: CoAP code as ``class * 100 + detail`` (RFC 7252 §5.9), 403 for 4.03.
        mqtt: MQTT 5 reason code of the PUBACK (MQTT 5.0 §3.4.2.1); None where no PUBACK is sent.
        temporary: whether the same message may succeed later; such a message is not acknowledged on MQTT.
        title: a short sentence for people.
    """

    http: int
    coap: int
    mqtt: int | None
    temporary: bool
    title: str


def _code(http: int, coap: int, mqtt: int | None, title: str, *, temporary: bool = False) -> Code:
    return Code(http, coap, mqtt, temporary, title)


_IMPLEMENTATION_SPECIFIC, _NOT_AUTHORISED, _TOPIC_INVALID = 0x83, 0x87, 0x90
_QUOTA, _FORMAT = 0x97, 0x99

CODES: Mapping[str, Code] = MappingProxyType(
    {
        "payload_unreadable": _code(400, 400, _FORMAT, "The payload cannot be read"),
        "schema_invalid": _code(422, 422, _FORMAT, "The payload has the wrong form"),
        "limit_exceeded": _code(413, 413, _QUOTA, "A limit is exceeded"),
        "rate_limited": _code(429, 429, None, "Too many messages from this device", temporary=True),
        "quota_exceeded": _code(429, 429, _QUOTA, "A quota is used up"),
        "too_many_metrics": _code(422, 422, _QUOTA, "The device has too many metrics"),
        "metric_name_invalid": _code(422, 422, _FORMAT, "A metric name is not allowed"),
        "number_not_finite": _code(422, 422, _FORMAT, "A number is not finite"),
        "number_inexact": _code(422, 422, _FORMAT, "An integer beyond 2^53 is not stored exactly; send it as text"),
        "time_unit": _code(422, 422, _FORMAT, "The time is not in milliseconds"),
        "time_invalid": _code(422, 422, _FORMAT, "The time cannot be read"),
        "time_out_of_range": _code(422, 422, _FORMAT, "The time lies outside what is accepted"),
        "time_in_future": _code(422, 422, _FORMAT, "The time lies too far in the future"),
        "time_ambiguous": _code(422, 422, _FORMAT, "Both time and age_ms are given"),
        "unit_mismatch": _code(422, 422, _FORMAT, "The unit does not convert to the series' unit"),
        "media_type_unsupported": _code(415, 415, _FORMAT, "The content type is not supported"),
        "not_your_device": _code(403, 403, _NOT_AUTHORISED, "The identity may not speak for this device"),
        "not_authenticated": _code(401, 401, _NOT_AUTHORISED, "No valid credential"),
        "not_authorised": _code(403, 403, _NOT_AUTHORISED, "Not allowed"),
        "device_unknown": _code(403, 403, _NOT_AUTHORISED, "The device is not registered"),
        "device_suspended": _code(403, 403, _NOT_AUTHORISED, "The device is suspended"),
        "device_retired": _code(403, 403, _NOT_AUTHORISED, "The device is retired"),
        "device_revoked": _code(403, 403, _NOT_AUTHORISED, "The credential is revoked"),
        "certificate_invalid": _code(403, 403, _NOT_AUTHORISED, "The certificate is not acceptable"),
        "csr_invalid": _code(422, 422, _FORMAT, "The certificate request is not acceptable"),
        "key_in_use": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The public key belongs to another device"),
        "token_spent": _code(401, 401, _NOT_AUTHORISED, "The enrolment token is used, expired or unknown"),
        "enrollment_pending": _code(202, 503, None, "The enrolment waits for approval", temporary=True),
        "protocol_violation": _code(400, 400, _IMPLEMENTATION_SPECIFIC, "The rules of the protocol are broken"),
        "session_taken_over": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "Another connection has taken its place"),
        "version_conflict": _code(412, 412, _IMPLEMENTATION_SPECIFIC, "It was changed meanwhile"),
        "precondition_required": _code(428, 400, _FORMAT, "If-Match is required"),
        "idempotency_mismatch": _code(422, 422, _FORMAT, "The idempotency key came with another body"),
        "already_exists": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "It exists already"),
        "not_found": _code(404, 404, _IMPLEMENTATION_SPECIFIC, "It does not exist"),
        "command_unknown": _code(404, 404, _IMPLEMENTATION_SPECIFIC, "The command does not exist"),
        "command_finished": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The command has another end state"),
        "command_expired": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The command has expired"),
        "execution_unknown": _code(404, 404, _IMPLEMENTATION_SPECIFIC, "The execution does not exist"),
        "version_mismatch": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The version is not the offered one"),
        "illegal_transition": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "That state change is not possible"),
        "artifact_unknown": _code(404, 404, _IMPLEMENTATION_SPECIFIC, "The artifact does not exist"),
        "artifact_unpinned": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The artifact has no digest"),
        "second_person_required": _code(403, 403, _NOT_AUTHORISED, "Another person has to approve it"),
        "version_rebuilt": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "Another image has that version"),
        "delta_unsuitable": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "A delta between these images is of no use"),
        "manifest_required": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "Firmware needs a signed manifest here"),
        "signature_invalid": _code(
            422, 422, _FORMAT, "Signatures are missing, or are not of the keys that are trusted"
        ),
        "manifest_expired": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The firmware manifest has expired"),
        "rollback_refused": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The firmware is older than what was there"),
        "model_mismatch": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The firmware is for other hardware"),
        "no_capacity": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "A gateway lacks the resources for it"),
        "topology_cycle": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "A gateway would be below itself"),
        "requires_unmet": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The firmware needs another one before it"),
        "hash_mismatch": _code(422, 422, _FORMAT, "The content has another digest"),
        "offset_mismatch": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The upload has come to another place"),
        "size_mismatch": _code(422, 422, _FORMAT, "The content has another size"),
        "trust_invalid": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The trust root does not follow the one before"),
        "trust_expired": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The trust root has expired"),
        "too_late": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The time for it is over"),
        "range_invalid": _code(416, 400, _FORMAT, "The range cannot be served"),
        "operation_unknown": _code(404, 404, _TOPIC_INVALID, "The operation does not exist"),
        "topic_invalid": _code(404, 404, _TOPIC_INVALID, "The topic does not exist"),
        "url_forbidden": _code(422, 422, _FORMAT, "The URL is not allowed"),
        "devices_would_be_locked_out": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "Devices would be locked out"),
        "root_offline": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The root's key is kept offline"),
        "plan_changed": _code(409, 409, _IMPLEMENTATION_SPECIFIC, "The plan changed since it was made"),
        "query_syntax": _code(400, 400, _FORMAT, "The query cannot be read"),
        "name_invalid": _code(422, 422, _FORMAT, "The name is not allowed"),
        "config_invalid": _code(500, 500, _IMPLEMENTATION_SPECIFIC, "The configuration is wrong"),
        "credentials_rejected": _code(502, 502, _IMPLEMENTATION_SPECIFIC, "A remote system refused our credentials"),
        "plugin_failed": _code(500, 500, _IMPLEMENTATION_SPECIFIC, "A plugin failed"),
        "data_folder_in_use": _code(423, 500, _IMPLEMENTATION_SPECIFIC, "Another process owns the data folder"),
        "wrong_loop": _code(500, 500, _IMPLEMENTATION_SPECIFIC, "The manager belongs to another event loop"),
        "overloaded": _code(503, 503, None, "The server is overloaded", temporary=True),
        "not_ready": _code(503, 503, None, "Not ready yet", temporary=True),
        "storage_full": _code(507, 503, None, "The store is full", temporary=True),
        "storage_failed": _code(503, 503, None, "The store failed", temporary=True),
        "data_damaged": _code(500, 500, None, "Stored data is damaged", temporary=True),
        "internal": _code(500, 500, _IMPLEMENTATION_SPECIFIC, "An internal error"),
    }
)


def is_temporary(code: str) -> bool:
    """Whether the same message may succeed later; a code that this release does not know is final."""
    return code in CODES and CODES[code].temporary


class FleetError(Exception):
    """The root of every error that fleetcore raises deliberately.

    Attributes:
        code: a stable key of :data:`CODES`.
        remedy: one sentence that says what to do, or empty.
        ids: the identifiers involved, for logs and machine readers.
    """

    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, code: str | None = None, remedy: str = "", **ids: object) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.remedy = remedy
        self.ids = ids

    def __str__(self) -> str:
        if not self.remedy:
            return self.message
        return f"{self.message}. {self.remedy}" + ("" if self.remedy[-1] in ".?!" else ".")


class NotFound(FleetError):
    """The named thing does not exist."""

    default_code = "not_found"


class Conflict(FleetError):
    """It exists already, or it was changed meanwhile."""

    default_code = "already_exists"


class VersionConflict(Conflict):
    """A compare-and-set lost: the stored version is not the expected one. ``ids['version']`` is the current one."""

    default_code = "version_conflict"


class IllegalTransition(Conflict):
    """The state machine has no such move."""

    default_code = "illegal_transition"


class Refused(FleetError):
    """The request is understood and not acceptable."""

    default_code = "schema_invalid"


class NotAuthenticated(Refused):
    """No valid credential was presented."""

    default_code = "not_authenticated"


class NotAuthorised(Refused):
    """A valid identity that may not do this."""

    default_code = "not_authorised"


class Unavailable(FleetError):
    """A temporary state: the same call may succeed after ``retry_after_s`` seconds."""

    default_code = "overloaded"

    def __init__(
        self, message: str, *, retry_after_s: float = 1.0, code: str | None = None, remedy: str = "", **ids: object
    ) -> None:
        super().__init__(message, code=code, remedy=remedy, **ids)
        self.retry_after_s = retry_after_s


class NotReady(Unavailable):
    """A plugin cannot open yet; the supervisor tries again with back-off."""

    default_code = "not_ready"


class ConfigError(FleetError):
    """A mistake in the configuration, with its place."""

    default_code = "config_invalid"

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        line: int = 0,
        code: str | None = None,
        remedy: str = "",
        **ids: object,
    ) -> None:
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(where + message, code=code, remedy=remedy, **ids)
        self.file = file
        self.line = line


class CredentialsRejected(FleetError):
    """A remote system refused our credentials; nothing is retried until a person acts."""

    default_code = "credentials_rejected"


class PluginError(FleetError):
    """A plugin raised, hung or broke its contract; ``ids['plugin']`` names it."""

    default_code = "plugin_failed"


class StorageError(FleetError):
    """The store failed; nothing of the commit is stored."""

    default_code = "storage_failed"


class DataFolderInUse(FleetError):
    """Another process owns the data folder."""

    default_code = "data_folder_in_use"


class WrongLoop(FleetError):
    """A manager was used from another event loop than the one it was opened in."""

    default_code = "wrong_loop"
