"""Looks up the keys of peers: asks the plane in a task, and reports a peer that does not have the key."""

import asyncio
from collections.abc import Callable

from fleetcore_coap.app_state import AppState
from fleetcore_coap.keyed import KeyedAssociation


class KeySearch:
    """The key lookups of one listener."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    def begin(
        self, association: KeyedAssociation, identity: bytes, peer: str, found: Callable[[list[bytes]], None]
    ) -> "asyncio.Task[None]":
        """Looks up the key of a handshake's peer, which waits meanwhile.

        ``found`` gets the held back messages, unless the handshake has ended or the task is cancelled.
        """
        return self._state.spawn(self._find(association, identity, peer, found), "key of a peer")

    async def _find(
        self, association: KeyedAssociation, identity: bytes, peer: str, found: Callable[[list[bytes]], None]
    ) -> None:
        key = None
        try:
            key = await self._state.plane.shared_key(
                identity.decode("utf-8", "replace"), protocol=self._state.context.name, peer=peer
            )
        except Exception:  # the store fails; the peer is refused, and comes again
            self._state.context.logger.exception("The key of %s could not be looked up", peer)
        if association.ended is None:
            found(association.know(key))

    def note_refused(self, association: KeyedAssociation, peer: str) -> None:
        """Audits, once, that a handshake ended because its peer does not have the key."""
        if association.refused is not None:
            refused, association.refused = association.refused.decode("utf-8", "replace"), None
            self._state.plane.key_refused(refused, protocol=self._state.context.name, peer=peer)
