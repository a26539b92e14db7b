"""The live stream: one conversation in which an operator subscribes to state, events and readings (live-stream.md)."""

from fleetcore.calls.live.conversation import Conversation

__all__ = ["Conversation"]
