"""A walk through the entities of some facets, page by page, in the order in which facets are first sent."""

from collections.abc import Awaitable, Callable, Collection, Sequence

from fleetcore.model.mirror import FACETS, EntityKey, Facet

Page = Callable[[Facet, str | None, int], Awaitable[tuple[Sequence[EntityKey], str | None]]]


class Walk:
    """A walk; see the module.

    Args:
        page: the next entities of a facet, up to a limit, after a place in it.
    """

    def __init__(self, facets: frozenset[Facet], page: Page) -> None:
        self.facets = tuple(facet for facet in FACETS if facet in facets)
        self._page = page

    async def next(
        self, after: str | None, limit: int, only: Collection[str] | None = None
    ) -> tuple[Sequence[EntityKey], str | None]:
        """The next entities, at most ``limit``, and where to continue, as text; None at the end.

        A page has entities of one facet, so it may be short or empty before the end.

        Args:
            only: the facets to walk through; None for all.
        """
        number, _, place = (after or "0:").partition(":")
        at = int(number)
        while at < len(self.facets) and not (only is None or self.facets[at] in only):
            at, place = at + 1, ""
        if at >= len(self.facets):
            return [], None
        keys, then = await self._page(self.facets[at], place or None, limit)
        if then is not None:
            return keys, f"{at}:{then}"
        return keys, f"{at + 1}:" if at + 1 < len(self.facets) else None
