"""An admission in one file: only devices with a listed serial enrol. Name the file in fleet.toml and require it.

[fleet]
plugins = ["./one_file_admission.py"]

[admission.serials]
file = "serials.txt"
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import frozen

from fleetcore import hookimpl, offer_admission
from fleetcore.errors import ConfigError
from fleetcore.interfaces import Admission, Admit, Candidate, Context, Provider, Refuse, Verdict


@frozen(kw_only=True)
class SerialsConfig:
    """``[admission.serials]``. Attributes: file: a serial per line; relative to the data folder."""

    file: str = "serials.txt"


class Serials(Admission):
    """Admits devices whose serial is in the list."""

    def __init__(self, serials: frozenset[str], context: Context) -> None:
        self._serials, self._context = serials, context

    async def decide(self, candidate: Candidate) -> Verdict:
        """Whether the serial is in the list; anything but text is not."""
        serial = candidate.parameters.get("serial")
        if isinstance(serial, str) and serial in self._serials:
            return Admit()
        self._context.count("unknown_serial")
        return Refuse("its serial is not on the list")


@asynccontextmanager
async def open_serials(config: SerialsConfig, context: Context) -> AsyncIterator[Serials]:
    """Reads the list once. Without it the admission does not open, and no device can enrol."""
    path = (context.data or Path()) / config.file
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"[admission.{context.name}] cannot read {path}: {error.strerror}") from error
    yield Serials(frozenset(filter(None, map(str.strip, lines))), context)


@hookimpl
def fleetcore_admissions() -> Iterable[Provider[Admission]]:
    """One admission, ``serials``."""
    return [offer_admission("serials", SerialsConfig, open_serials, summary="devices whose serial is on a list")]
