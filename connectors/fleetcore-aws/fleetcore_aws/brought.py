"""Records which certificates this fleet attached to a thing: the named shadow ``certificates``.

AWS does not record who registered a certificate. This shadow does: certificates that it does not list are never
changed. It is written before the first call for a certificate and after the last one, so that a restarted mirror finds
unfinished work.
"""

from collections.abc import Iterable, Sequence

from attrs import frozen

from fleetcore_aws.attributes import MARK
from fleetcore_aws.clients import Clients
from fleetcore_aws.shadows import Shadow, Shadows

SHADOW = "certificates"
_IDS = "ids"


@frozen(kw_only=True)
class Brought:
    """The content of the shadow; ``mark`` is that of the fleet that wrote it."""

    version: int
    mark: str
    ids: Sequence[str]


class BroughtCertificates:
    """Reads and writes these shadows for the fleet with ``mark``."""

    def __init__(self, clients: Clients, mark: str) -> None:
        self._shadows, self._mark = Shadows(clients, SHADOW), mark

    async def get(self, thing: str) -> Brought | None:
        """The certificates attached to a thing; None without a record."""
        shadow = await self._shadows.get(thing)
        if shadow is None:
            return None
        ids = shadow.reported.get(_IDS)
        named = [each for each in ids if isinstance(each, str)] if isinstance(ids, list) else []
        return Brought(version=shadow.version, mark=str(shadow.reported.get(MARK, "")), ids=named)

    def is_own(self, brought: Brought) -> bool:
        """Whether this fleet wrote it."""
        return brought.mark == self._mark

    async def write(self, thing: str, there: Brought | None, ids: Iterable[str]) -> Brought:
        """Replaces the recorded ids; raises CallFailed, of kind ``conflict`` after another writer."""
        known = None if there is None else Shadow(there.version, {}, self._state(there.ids))
        version = await self._shadows.replace(thing, known, {}, self._state(ids))
        return Brought(version=version, mark=self._mark, ids=sorted(ids))

    def _state(self, ids: Iterable[str]) -> dict[str, object]:
        return {MARK: self._mark, _IDS: sorted(ids)}

    async def remove(self, thing: str) -> None:
        """Removes the record."""
        await self._shadows.remove(thing)
