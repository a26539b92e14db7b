"""Offers as a plugin's author writes them. Nothing here runs: mypy takes the good ones and refuses the others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore import (
    offer_admission,
    offer_detector,
    offer_notifier,
    offer_protocol,
    offer_service,
    offer_storage,
)
from fleetcore.builtin.local_protocol import LocalConfig, open_local, open_local_client
from fleetcore.builtin.log_notifier import LogConfig, open_log
from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.storage import open_sqlite
from fleetcore.builtin.threshold import ThresholdConfig, ThresholdDetector, open_threshold
from fleetcore.interfaces import Admission, Admit, Candidate, Context, Detector, Provider, Verdict


@frozen
class OtherConfig:
    """The section of something else."""


class Everybody(Admission):
    """Admits all."""

    async def decide(self, candidate: Candidate) -> Verdict:
        return Admit()


@asynccontextmanager
async def open_everybody(config: OtherConfig, context: Context) -> AsyncIterator[Everybody]:
    """Yields an admission."""
    yield Everybody()


@asynccontextmanager
async def open_service(config: OtherConfig, context: Context, fleet: object) -> AsyncIterator[object]:
    """Yields anything."""
    yield object()


@asynccontextmanager
async def open_nothing(config: OtherConfig, context: Context) -> AsyncIterator[dict[str, int]]:
    """Yields what no kind takes."""
    yield {}


async def open_undecorated(config: ThresholdConfig, context: Context) -> AsyncIterator[ThresholdDetector]:
    """Lacks asynccontextmanager."""
    yield ThresholdDetector(config)


# What is right.
DETECTOR: Provider[Detector] = offer_detector("a", ThresholdConfig, open_threshold, summary="text")
STORAGE = offer_storage("a", SqliteConfig, open_sqlite)
PROTOCOL = offer_protocol("a", LocalConfig, open_local, client=open_local_client, demo={})
NOTIFIER = offer_notifier("a", LogConfig, open_log)
ADMISSION = offer_admission("a", OtherConfig, open_everybody)
SERVICE = offer_service("a", OtherConfig, open_service)

# An opener that yields something else, or lacks its decorator.
offer_detector("a", OtherConfig, open_nothing)  # type: ignore[arg-type]
offer_detector("a", ThresholdConfig, open_undecorated)  # type: ignore[arg-type]
offer_detector("a", LogConfig, open_log)  # type: ignore[arg-type]
offer_storage("a", ThresholdConfig, open_threshold)  # type: ignore[arg-type]
offer_admission("a", OtherConfig, open_nothing)  # type: ignore[arg-type]
# One that takes other things than its kind is given.
offer_protocol("a", OtherConfig, open_everybody)  # type: ignore[arg-type]
offer_admission("a", OtherConfig, open_service)  # type: ignore[arg-type]
# A section that is not the one that the opener takes.
offer_detector("a", LogConfig, open_threshold)  # type: ignore[arg-type]
# A client where the kind has none.
offer_detector("a", ThresholdConfig, open_threshold, client=open_local_client)  # type: ignore[call-arg]
