"""Answers about the server: its status and its plugins."""

from fleetcore.calls.types import Json, Response


class StatusResponse(Response, frozen=True):
    """What runs; the store's ``problems`` are in ``storage``, what does not work is in ``not_ready``, with a reason."""

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
    """The finding of a check; ``state`` is ok, warning or problem."""

    state: str
    what: str
    detail: str
    remedy: str


class ListenersCheckResponse(Response, frozen=True):
    """The result of each check."""

    findings: list[FindingResponse]


class StorageCheckResponse(Response, frozen=True):
    """Problems of the stored data that a quick check finds, and the counters that it corrected."""

    problems: list[str]
    recounted: list[str]


class StorageVerifyResponse(Response, frozen=True):
    """Problems in the part of the stored data that was read.

    ``done`` of ``total`` bytes are read so far; ``next`` names the next part, and is null after the last one.
    """

    problems: list[str]
    done: int
    total: int
    next: str | None


class BackupResponse(Response, frozen=True):
    """The folder of the backup, and what is damaged in the copied data."""

    backup: str
    problems: list[str]


class InstanceResponse(Response, frozen=True):
    """A configured part of the data path, and its plugin kind."""

    name: str
    kind: str


class PluginResponse(Response, frozen=True):
    """A plugin and its offers.

    ``state`` is loaded, failed, disabled or unknown (fleet.toml disables it, and it is not there). ``error`` says which
    part failed, ``remedy`` what to do, ``warnings`` which parts are unused.
    """

    name: str
    version: str
    origin: str
    state: str
    offers: list[str]
    error: str
    remedy: str
    warnings: list[str]
