"""The connector's own keys of ``[clouds.NAME]``, and their checks.

Credentials are not among them: they come from the SDK's own chain (application default credentials).
"""

import re

from attrs import field, frozen, validators

from fleetcore.errors import ConfigError

#: Names of topics and subscriptions begin with a letter, but not with ``goog``, and have at most 255 characters
#: (https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names); some room is left for the rest of the name.
_PREFIX = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{0,199}", re.ASCII)
_PROJECT = re.compile(r"([a-z0-9.-]{1,100}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", re.ASCII)
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]{1,2}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-f:]+\](:[0-9]{1,5})?", re.ASCII)


@frozen(kw_only=True)
class GcpConfig:
    """``[clouds.NAME]`` with ``kind = "gcp"``.

    Attributes:
        project: the project's id.
        region: messages go to its endpoint, and stay there: they are only ordered within a region.
        endpoint: another host than the region's, ``HOST`` or ``HOST:PORT``.
        emulator: ``HOST:PORT`` of an emulator, used without encryption and credentials.
        prefix: the prefix of names of topics and subscriptions.
        create: whether missing topics and the subscription of commands are created.
        project_number: the project's number; with it ``create`` gives Pub/Sub's service agent its rights to dead
            letters.
        retain_days: how long a created topic keeps messages, for later subscriptions to seek back to; 0 to 31.
        deliveries: how often a command is delivered before it is a dead letter of the subscription, 5 to 100.
        threads: concurrent calls of the SDK.
        answer_timeout_s: the time limit of an answer.
        credentials: refused, like the next two: credentials must not be in fleet.toml.
        credentials_file: refused.
        service_account_key: refused.
    """

    project: str
    region: str | None = None
    endpoint: str | None = None
    emulator: str | None = None
    prefix: str = "fleetcore-"
    create: bool = False
    project_number: str | None = None
    retain_days: int = field(default=7, validator=[validators.ge(0), validators.le(31)])
    deliveries: int = field(default=10, validator=[validators.ge(5), validators.le(100)])
    threads: int = field(default=32, validator=validators.gt(0))
    answer_timeout_s: float = field(default=20.0, validator=validators.gt(0.0))
    credentials: str | None = field(default=None, repr=False)
    credentials_file: str | None = field(default=None, repr=False)
    service_account_key: str | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        for name in ("credentials", "credentials_file", "service_account_key"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"{name} must not be in fleet.toml",
                    remedy="Remove it, and give credentials to the SDK: a service account of the machine, or "
                    "GOOGLE_APPLICATION_CREDENTIALS",
                )
        if not _PROJECT.fullmatch(self.project):
            raise ConfigError("project is not a project id", remedy="Write the id, as in `gcloud projects list`")
        if self.region is None and self.endpoint is None and self.emulator is None:
            raise ConfigError(
                "No region is configured, and messages are only ordered within a region",
                remedy='Add region = "europe-west1"',
            )
        if self.region is not None and not _REGION.fullmatch(self.region):
            raise ConfigError(
                "region must be a region of Google, not of AWS", remedy='Write it as Google does: "europe-west1"'
            )
        for name in ("endpoint", "emulator"):
            if getattr(self, name) is not None and not _HOST.fullmatch(getattr(self, name)):
                raise ConfigError(f"{name} is not a host", remedy="Write HOST or HOST:PORT, without https://")
        if not _PREFIX.fullmatch(self.prefix):
            raise ConfigError(
                "prefix is not a valid prefix of a topic's name",
                remedy="Begin with a letter, and not with goog; use up to 200 characters of a-z A-Z 0-9 - . _ ~ + %",
            )

    @property
    def host(self) -> str:
        """The host of calls: the emulator, the configured endpoint, or the region's own.

        Regional endpoints: https://cloud.google.com/pubsub/docs/reference/service_apis_overview#service_endpoints.
        """
        return self.emulator or self.endpoint or f"{self.region}-pubsub.googleapis.com"
