"""The server itself."""

from fleetcore.calls.types import Json, Response


class StatusResponse(Response, frozen=True):
    """What runs; ``problems`` of the store are in ``storage``, what does not work in ``not_ready``, with its reason."""

    fleet: str
    data: str | None
    protocols: Json
    sessions: int
    queue: Json
    messages: Json
    readings: Json
    consumers: Json
    admissions: Json
    counts: Json
    tasks: Json
    plugins: list[Json]
    storage: list[str]
    recounted: list[str]
    not_ready: Json
    left_behind: Json
    mirrors: Json
    room: Json
    retention: Json


class FindingResponse(Response, frozen=True):
    """What an examination has shown; ``state`` is ok, warning or problem."""

    state: str
    what: str
    detail: str
    remedy: str


class ListenersCheckResponse(Response, frozen=True):
    """What came of each trial."""

    findings: list[FindingResponse]


class StorageCheckResponse(Response, frozen=True):
    """What is wrong with the stored data as far as a quick look shows it, and which counters were corrected."""

    problems: list[str]
    recounted: list[str]


class StorageVerifyResponse(Response, frozen=True):
    """What is wrong in the part of the stored data that was read.

    ``done`` of ``total`` bytes are read so far; ``next`` names the next part, and is null after the last one.
    """

    problems: list[str]
    done: int
    total: int
    next: str | None


class BackupResponse(Response, frozen=True):
    """The folder that has the backup, and what is damaged in what was copied."""

    backup: str
    problems: list[str]


class InstanceResponse(Response, frozen=True):
    """A configured part of the data path, and the plugin kind that it is."""

    name: str
    kind: str


class PluginResponse(Response, frozen=True):
    """A plugin and what it offers.

    ``state`` is loaded, failed, disabled or unknown (fleet.toml disables it, and it is not there). ``error`` says what
    of it failed, ``remedy`` what to do, ``warnings`` what of it is not used.
    """

    name: str
    version: str
    origin: str
    state: str
    offers: list[str]
    error: str
    remedy: str
    warnings: list[str]
