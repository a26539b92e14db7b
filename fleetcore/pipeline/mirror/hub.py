"""A backend as the engine calls it: with time limits, checked answers and classified errors.

Errors of the interface pass: :class:`~fleetcore.errors.Unavailable`, :class:`~fleetcore.errors.CredentialsRejected`,
and :class:`~fleetcore.errors.PluginError` of a call that took too long. Any other error becomes a
:class:`BackendError`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import TypeVar

from fleetcore.errors import CredentialsRejected, PluginError, Unavailable
from fleetcore.interfaces.boundary import in_a_line, plugin_call, plugin_code
from fleetcore.interfaces.cloud import Arrived, CloudBackend, CloudLimits, Fitted, MirrorItem, MirrorResult, Unowned
from fleetcore.interfaces.protocol import Finding
from fleetcore.model.mirror import CALLED, EntityKey, Facet, Loss, MirrorBody, not_held

_T = TypeVar("_T")


class BackendError(PluginError):
    """The backend raised an error that its interface does not define."""


@contextmanager
def _told_apart(what: str) -> Iterator[None]:
    try:
        yield
    except (Unavailable, CredentialsRejected, PluginError):
        raise
    except Exception as error:
        raise BackendError(f"{what} raised {in_a_line(error)}") from error


class Hub:
    """A backend with checks; see the module.

    Args:
        timeout_s: the time limit of a batch.
    """

    def __init__(self, name: str, cloud: CloudBackend, *, timeout_s: float) -> None:
        self.name, self.cloud, self._timeout_s = name, cloud, timeout_s
        self._what = f"mirror {name!r}"

    @property
    def limits(self) -> CloudLimits:
        """The limits of the backend."""
        return self.cloud.limits

    def fit(self, key: EntityKey, body: MirrorBody, remote_version: str | None = None) -> Fitted:
        """A state as the hub can hold it; empty for a facet that the hub does not hold."""
        if key.facet not in self.limits.facets:
            return Fitted(item=None, lost=(Loss("", not_held(key.facet)),))
        with _told_apart(self._what), plugin_code(self._what):
            return self.cloud.fit(MirrorItem(key=key, body=body, remote_version=remote_version))

    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        """One result for each item; at most ``limits.items``."""
        return await self._answered(items, self.cloud.apply(items))

    async def read(self, keys: Sequence[EntityKey]) -> Sequence[MirrorItem | None]:
        """The hub's states of any number of entities, in order."""
        found: dict[EntityKey, MirrorItem | None] = {}
        held = [key for key in keys if key.facet in self.limits.facets]
        for start in range(0, len(held), self.limits.items):
            part = held[start : start + self.limits.items]
            found |= zip(part, await self._answered(part, self.cloud.read(part)), strict=True)
        return [found.get(key) for key in keys]

    async def entities(self, facet: Facet) -> AsyncIterator[EntityKey]:
        """The hub's entities of a facet that have this fleet's mark. Not limited in time."""
        if facet not in self.limits.facets:
            return
        async for key in self._given(self.cloud.entities(facet)):
            yield key

    async def unowned(self, after: str | None) -> tuple[Sequence[Unowned], str | None]:
        """Entities that others have created there; from the beginning if ``after`` is no longer a place."""
        with _told_apart(self._what):
            async with plugin_call(self._what, self._timeout_s):
                found = await self.cloud.unowned(after) or await self.cloud.unowned(None)
        return found or ((), None)

    async def read_unowned(self, found: Sequence[Unowned]) -> Sequence[Sequence[MirrorItem]]:
        """Their states, in order."""
        return await self._answered(found, self.cloud.read_unowned(found))

    async def members(self, group: EntityKey, after: str | None) -> tuple[Sequence[str], str | None]:
        """The next devices of an unowned group."""
        with _told_apart(self._what):
            async with plugin_call(self._what, self._timeout_s):
                return await self.cloud.members(group, after)

    async def inbound(self, after: str | None) -> AsyncGenerator[Arrived, None]:
        """Messages from the hub."""
        async with aclosing(self.cloud.inbound(after)) as arriving:
            async for arrived in self._given(arriving):
                yield arrived

    async def check(self) -> Sequence[Finding]:
        """The backend's check of credentials, permissions and quotas, and facets that are sent to no purpose."""
        with _told_apart(self._what):
            async with plugin_call(self._what, self._timeout_s):
                found = await self.cloud.check()
        return [*found, *self._unheld()]

    def _unheld(self) -> Iterator[Finding]:
        unheld = [CALLED[facet] for facet in CALLED if facet in self.cloud.use.sends - self.limits.facets]
        for each in unheld:
            yield Finding(
                state="problem", what=each, detail="this hub does not hold them", remedy=f"Remove {each} from mirror"
            )

    def policy(self) -> Mapping[str, str]:
        """The minimal permissions, by form."""
        with _told_apart(self._what), plugin_code(self._what):
            return self.cloud.policy()

    async def _given(self, given: AsyncIterator[_T]) -> AsyncIterator[_T]:
        while True:
            # Not around the yield, because this generator is closed there.
            with _told_apart(self._what), plugin_code(self._what):
                try:
                    each = await anext(given)
                except StopAsyncIteration:
                    return
            yield each

    async def _answered(self, asked: Sequence[object], call: Awaitable[Sequence[_T]]) -> Sequence[_T]:
        with _told_apart(self._what):
            async with plugin_call(self._what, self._timeout_s):
                answers = await call
        if len(answers) != len(asked):
            raise PluginError(f"{self._what} gave {len(answers)} answers for {len(asked)} items")
        return answers
