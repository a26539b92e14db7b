"""The connector's own keys of ``[clouds.NAME]``, and their checks.

Credentials are not among them: they come from the SDK's own chain (environment, profile, the role of the machine).
"""

import re
from typing import Literal

from attrs import Factory, field, frozen, validators

from fleetcore.errors import ConfigError

_SHADOW = re.compile(r"[a-zA-Z0-9:_-]{0,64}", re.ASCII)
#: The shadow of a device's twin.
SHADOW = "twin"
#: Shadows with other data of the fleet.
TAKEN_SHADOWS = ("meta", "certificates")
_PREFIX = re.compile(r"[a-zA-Z0-9:_-]{0,63}", re.ASCII)
_POLICY = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
_TOPIC = re.compile(r"[^+#$\0][^+#\0]{0,99}")


@frozen(kw_only=True)
class Telemetry:
    """``telemetry = {…}``: where readings go.

    Attributes:
        via: ``iot-data`` publishes a message per device; the others put records into a stream or a queue.
        topic: the prefix of topics; the fleet's name, the thing's and ``telemetry`` follow.
        qos: of published messages.
        stream: the name of the Kinesis stream or of the Firehose delivery stream.
        queue: the URL of the SQS queue.
    """

    via: Literal["iot-data", "kinesis", "firehose", "sqs"] = "iot-data"
    topic: str = "fleetcore"
    qos: int = field(default=1, validator=validators.in_((0, 1)))
    stream: str | None = None
    queue: str | None = None

    def __attrs_post_init__(self) -> None:
        if not _TOPIC.fullmatch(self.topic) or self.topic.count("/") > 3:
            raise ConfigError(
                "telemetry.topic is not a valid topic prefix", remedy="Use up to 100 characters without + # $, 4 levels"
            )
        if self.via in {"kinesis", "firehose"} and not self.stream:
            raise ConfigError(f"telemetry by {self.via} needs a stream", remedy='Add stream = "NAME" to telemetry')
        if self.via == "sqs" and not self.queue:
            raise ConfigError("telemetry by sqs needs a queue", remedy='Add queue = "https://…" to telemetry')


@frozen(kw_only=True)
class AwsConfig:
    """``[clouds.NAME]`` with ``kind = "aws"``.

    Attributes:
        region: by default that of the SDK's own chain.
        account: the account's number, which makes the printed policy narrower.
        endpoint: one for all services, for a simulated AWS.
        data_endpoint: the endpoint of shadows and messages, ``https://…-ats.iot.REGION.amazonaws.com``; requested from
            AWS by default.
        jobs_endpoint: the endpoint of job executions, ``https://….jobs.iot.REGION.amazonaws.com``; requested from AWS
            by default.
        profile: a profile of the SDK's configuration file.
        shadow: the name of the shadow with a device's twin; empty for the thing's unnamed one.
        thing_prefix: the prefix of names of things, types and groups.
        certificate_policy: the AWS IoT policy attached to certificates; without one they may do nothing.
        threads: concurrent calls of the SDK.
        connect_timeout_s: the time limit of a connection.
        read_timeout_s: the time limit of an answer.
        telemetry: where readings go.
        commands_queue: the URL of an SQS queue into which a rule writes commands and changed shadows.
        queue_wait_s: the length of one wait for the queue, at most 20.
        access_key_id: refused, like the next two: credentials must not be in fleet.toml.
        secret_access_key: refused.
        session_token: refused.
    """

    region: str | None = None
    account: str | None = None
    endpoint: str | None = None
    data_endpoint: str | None = None
    jobs_endpoint: str | None = None
    profile: str | None = None
    shadow: str = SHADOW
    thing_prefix: str = ""
    certificate_policy: str | None = None
    threads: int = field(default=32, validator=validators.gt(0))
    connect_timeout_s: float = field(default=5.0, validator=validators.gt(0.0))
    read_timeout_s: float = field(default=20.0, validator=validators.gt(0.0))
    telemetry: Telemetry = Factory(Telemetry)
    commands_queue: str | None = None
    queue_wait_s: int = field(default=5, validator=[validators.ge(0), validators.le(20)])
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        for name in ("access_key_id", "secret_access_key", "session_token"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"{name} must not be in fleet.toml",
                    remedy="Remove it, and give credentials to the SDK: AWS_PROFILE, the environment or a role",
                )
        if not _SHADOW.fullmatch(self.shadow) or self.shadow in TAKEN_SHADOWS:
            raise ConfigError(
                "shadow cannot be used for a twin",
                remedy="Use up to 64 characters of a-z A-Z 0-9 : _ -, except meta and certificates",
            )
        if not _PREFIX.fullmatch(self.thing_prefix):
            raise ConfigError(
                "thing_prefix is not a valid prefix of a thing's name",
                remedy="Use up to 63 characters of a-z A-Z 0-9 : _ -",
            )
        if self.certificate_policy is not None and not _POLICY.fullmatch(self.certificate_policy):
            raise ConfigError(
                "certificate_policy is not a valid policy name",
                remedy="Name a policy of AWS IoT: up to 128 characters of a-z A-Z 0-9 _ + = , . @ -",
            )
