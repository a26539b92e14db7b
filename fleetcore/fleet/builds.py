"""Which image a version names: the first one that was released, or offered by a campaign, under it.

A version that named two images would not tell which one a device runs. So an image that was built again needs
another version; build metadata is enough (``2.0.0+build.2``), and is ignored when versions are compared.
"""

from collections.abc import Iterable

from fleetcore.errors import Conflict
from fleetcore.fleet.repository import Repository
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.firmware import Build
from fleetcore.model.store import Commit

_NOTHING = Commit()


def model_names(models: Iterable[object]) -> set[str]:
    """What firmware without a manifest is called: each model has its own versions.

    Devices without a model may be of any product, so their versions are not compared.
    """
    return {f"model={model}" for model in models if isinstance(model, str)}


class Builds:
    """Stores the digest of each version that was used."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self.records = Repository(storage, "build", Build)

    async def making(self, names: Iterable[str], release: str, sha256: str, beside: Commit = _NOTHING) -> Commit:
        """The part of a commit that gives a version to an image; empty where the image has it already.

        ``beside`` is the rest of the commit, which may give versions too.

        Args:
            names: of the product, as in the manifest; or :func:`model_names`.

        Raises:
            Conflict: ``version_rebuilt``, another image has that version.
        """
        made = Commit()
        for name in dict.fromkeys(names):
            key = f"{name}@{release}"
            taken = next((put for put in beside.puts if (put.kind, put.key) == (self.records.kind, key)), None)
            known = await self.records.get(key)
            if taken is not None:
                held: str | None = str(taken.body["sha256"])
            else:
                held = await self._released(name, release) if known is None else known.sha256
            if held is not None and held != sha256:
                raise _rebuilt(name, release, held, sha256)
            if known is None and taken is None:
                build = Build(id=key, name=name, release=release, sha256=sha256, added=self._clock.now_ms())
                made += self.records.making([build])
        return made

    async def of_devices(self, devices: Iterable[str]) -> set[str]:
        """The names of firmware without a manifest that goes to some devices."""
        found = await self._storage.get_many("device", devices)
        return model_names(record.body.get("model") for record in found.values())

    async def _released(self, name: str, release: str) -> str | None:
        """The image of a release that was added before versions were recorded."""
        after: str | None = None
        while True:
            found = await self._storage.find("release", ref=("name", name), after=after)
            for record in found.items:
                if record.body["release"] == release:
                    return str(record.body["sha256"])
            after = found.after
            if after is None:
                return None


def _rebuilt(name: str, release: str, held: str, sha256: str) -> Conflict:
    return Conflict(
        f"Version {release} of {name.removeprefix('model=')} is the image {held}, not {sha256}",
        code="version_rebuilt",
        remedy=f"Give the new image another version, such as {release.partition('+')[0]}+build.2",
        release=release,
        sha256=held,
    )
