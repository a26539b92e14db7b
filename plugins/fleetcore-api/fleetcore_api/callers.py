"""The caller of a request or a live stream, as calls see it."""

from collections.abc import Callable, Coroutine
from typing import Any

from fleetcore.calls.caller import Caller
from fleetcore_api.app_state import AppState


def caller_of(state: AppState, scope: Any, left: Callable[[], Coroutine[Any, Any, object]] | None = None) -> Caller:
    """The caller of a request; ``left`` returns when the client has disconnected, which ends waits."""
    operators, token = state.fleet.operators, scope["auth"]
    return Caller(
        state.fleet,
        scope["user"],
        renew=lambda: operators.authenticate(token),
        watch=lambda: operators.watch(token),
        max_wait_s=state.config.command_wait_s,
        left=left,
    )
