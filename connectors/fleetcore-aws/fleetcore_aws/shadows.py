"""One named shadow: read, replaced completely, removed; each with AWS's version."""

import json
from collections.abc import Mapping
from typing import cast

from attrs import frozen

from fleetcore.model.patch import Document, patch, same
from fleetcore_aws import answers
from fleetcore_aws.clients import Clients
from fleetcore_aws.failures import CallFailed

_GET = "iot:GetThingShadow"
_UPDATE = "iot:UpdateThingShadow"


@frozen
class Shadow:
    """The content of a shadow."""

    version: int
    desired: Document
    reported: Document


def named(shadow: str) -> Mapping[str, str]:
    """The arguments for a shadow; none for the unnamed one."""
    return {"shadowName": shadow} if shadow else {}


class Shadows:
    """The shadows of one name; an empty one for the unnamed shadow, of which a thing has one."""

    def __init__(self, clients: Clients, name: str) -> None:
        self._clients, self._named = clients, named(name)

    async def get(self, thing: str) -> Shadow | None:
        """The shadow; None if it or the thing does not exist."""
        try:
            answer = await self._clients.call(_GET, thingName=thing, **self._named)
        except CallFailed as failed:
            if failed.kind == "missing":
                return None
            raise
        document = _document(_GET, answer)
        state = answers.record(_GET, document, "state")
        return Shadow(
            answers.number(_GET, document, "version"), _section(state, "desired"), _section(state, "reported")
        )

    async def replace(self, thing: str, there: Shadow | None, desired: Document, reported: Document) -> int:
        """Changes the shadow from its present state to the given one; returns its new version.

        Raises CallFailed, of kind ``conflict`` if another writer was faster.
        """
        old = there or Shadow(0, {}, {})
        if there is not None and same(old.desired, desired) and same(old.reported, reported):
            return there.version
        request: dict[str, object] = {
            "state": {
                name: changed
                for name, changed in (
                    ("desired", patch(old.desired, desired)),
                    ("reported", patch(old.reported, reported)),
                )
                if changed
            }
        }
        if there is not None:
            request["version"] = there.version
        payload = json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode()
        answer = await self._clients.call(_UPDATE, thingName=thing, **self._named, payload=payload)
        return answers.number(_UPDATE, _document(_UPDATE, answer), "version")

    async def remove(self, thing: str) -> None:
        """Removes the shadow, if there is one."""
        try:
            await self._clients.call("iot:DeleteThingShadow", thingName=thing, **self._named)
        except CallFailed as failed:
            if failed.kind != "missing":
                raise


def _document(action: str, answer: answers.Answer) -> Mapping[str, object]:
    payload = answer.get("payload")
    try:
        found = json.loads(payload) if isinstance(payload, bytes) else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CallFailed(action, "unavailable", "the answer lacks a document; it was truncated", lost=True)
    return cast("Mapping[str, object]", found)


def _section(state: Mapping[str, object], name: str) -> Document:
    section = state.get(name)
    return cast("Document", section) if isinstance(section, dict) else {}
