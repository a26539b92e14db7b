"""What ``[clouds.NAME]`` may say beside what every mirror may, and what of it is refused.

Credentials are never among it: they come by the SDK's own chain (application default credentials).
"""

import re

from attrs import field, frozen, validators

from fleetcore.errors import ConfigError

#: Names of topics and subscriptions begin with a letter, have at most 255 characters, and not ``goog`` in front
#: (https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names); room is left for what follows.
_PREFIX = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{0,199}", re.ASCII)
_PROJECT = re.compile(r"([a-z0-9.-]{1,100}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", re.ASCII)
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]{1,2}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-f:]+\](:[0-9]{1,5})?", re.ASCII)


@frozen(kw_only=True)
class GcpConfig:
    """``[clouds.NAME]`` with ``kind = "gcp"``.

    Attributes:
        project: the project's id.
        region: messages go to its endpoint, and stay there: order holds within a region alone.
        endpoint: another host than the region's, ``HOST`` or ``HOST:PORT``.
        emulator: ``HOST:PORT`` of an emulator, spoken to in the clear and without credentials.
        prefix: what names of topics and subscriptions begin with.
        create: whether topics and the subscription of commands are made where they are missing.
        project_number: of the project; with it ``create`` gives Pub/Sub's service agent its rights to dead letters.
        retain_days: how long a topic that is made keeps messages, for later subscriptions to go back to; 0 to 31.
        deliveries: how often a command is delivered before it is a dead letter of the subscription, 5 to 100.
        threads: calls of the SDK that may be under way.
        answer_timeout_s: for an answer.
        credentials: refused, as are the next two: credentials do not belong into fleet.toml.
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
                    f"{name} does not belong here",
                    remedy="Remove it, and give the SDK its credentials: a service account of the machine, or "
                    "GOOGLE_APPLICATION_CREDENTIALS",
                )
        if not _PROJECT.fullmatch(self.project):
            raise ConfigError("project is not a project id", remedy="Write the id, as `gcloud projects list` has it")
        if self.region is None and self.endpoint is None and self.emulator is None:
            raise ConfigError(
                "No region is known, and the order of messages holds within a region alone",
                remedy='Add region = "europe-west1"',
            )
        if self.region is not None and not _REGION.fullmatch(self.region):
            raise ConfigError("region is not a region of AWS", remedy='Write it as Google does: "europe-west1"')
        for name in ("endpoint", "emulator"):
            if getattr(self, name) is not None and not _HOST.fullmatch(getattr(self, name)):
                raise ConfigError(f"{name} is not a host", remedy="Write HOST or HOST:PORT, without https://")
        if not _PREFIX.fullmatch(self.prefix):
            raise ConfigError(
                "prefix is not a start of a topic's name",
                remedy="Begin with a letter, and not with goog; use up to 200 characters of a-z A-Z 0-9 - . _ ~ + %",
            )

    @property
    def host(self) -> str:
        """Where calls go: the emulator, the endpoint that is named, or the region's own.

        Regional endpoints: https://cloud.google.com/pubsub/docs/reference/service_apis_overview#service_endpoints.
        """
        return self.emulator or self.endpoint or f"{self.region}-pubsub.googleapis.com"
