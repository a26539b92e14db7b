"""The listener: uvicorn inside the fleet's event loop, with the fleet's TLS context and without signal handlers."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Literal

import uvicorn

from fleetcore.errors import ConfigError, NotReady
from fleetcore.interfaces.provider import Context
from fleetcore.interfaces.waits import end_tasks
from fleetcore.listening.listener import Listener as OpenListener
from fleetcore.listening.sockets import bind
from fleetcore.runtime.app import Fleet
from fleetcore.wire.endpoints import Listener
from fleetcore_api.app import build
from fleetcore_api.app_state import AppState
from fleetcore_api.config import ApiConfig
from fleetcore_api.live import FRAME_BYTES
from fleetcore_api.timed import TimedConnections

_log = logging.getLogger(__name__)

#: How long requests under way may take while the service closes.
_GRACE_S = 3
#: How long the peer may take to close a connection.
_CLOSE_S = 0.5
#: How often the end of the connections is looked for.
_LOOK_S = 0.005
_KEEP_ALIVE_S = 75


class ApiServer:
    """An open listener; made by :func:`serve`."""

    def __init__(self, url: str, state: AppState) -> None:
        self.url, self.state = url, state

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The address of the listener."""
        return (self.url,)


@asynccontextmanager
async def serve(config: ApiConfig, context: Context, fleet: Fleet) -> AsyncIterator[ApiServer]:
    """Serves until the block ends. Raises ConfigError, NotReady."""
    listener = config.listener()
    if listener.tls and context.tls is None:
        raise ConfigError("HTTPS needs the fleet's CA", remedy="`fleetcore init` creates one; in memory use http://")
    state = AppState(name=context.name, config=config, fleet=fleet)
    settings = uvicorn.Config(
        build(state),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=FRAME_BYTES,
        ws_per_message_deflate=False,
        proxy_headers=False,
        timeout_keep_alive=int(min(_KEEP_ALIVE_S, context.listening.limits.idle_s)) or 1,
        h11_max_incomplete_event_size=32 * 1024,
        http=_parser(config),
    )
    settings.load()
    tls = context.tls.server(client_certificates=False) if listener.tls and context.tls else None
    bound = _bind(listener)
    server = uvicorn.Server(settings)
    # Replaces uvicorn's startup, which would accept without a limit.
    server.servers, server.started = [], True
    timed = TimedConnections(settings, server.server_state, context.listening.limits, context.clock)
    listening = OpenListener(context.name, bound, timed.connection, context.listening, context.clock, tls=tls)
    listening.open()
    sweeping = asyncio.create_task(timed.sweep(), name=f"sweep of service {context.name}")
    ticking = asyncio.create_task(_tick(server), name=f"service {context.name}")
    scheme = "https" if listener.tls else "http"
    host = f"[{listener.host}]" if ":" in listener.host else listener.host
    url = f"{scheme}://{host}:{bound[0].getsockname()[1]}"
    context.logger.info("The operators' API listens on %s", url)
    try:
        yield ApiServer(url, state)
    finally:
        state.close()
        listening.close()
        await end_tasks(ticking, sweeping)
        await _shut(server)
        await listening.wait_closed()


async def _shut(server: uvicorn.Server) -> None:
    """Closes the connections once their requests are answered, within the grace period.

    A peer that was answered and does not close its side of TLS is not waited for. uvicorn's own way sleeps 0.1 s even
    where nothing is connected.
    """
    state, now = server.server_state, asyncio.get_running_loop().time
    begun = now()
    for connection in [*state.connections]:
        connection.shutdown()
    while state.connections or state.tasks:
        if now() - begun >= _GRACE_S:
            _log.error("%d requests were still under way after %d s: cancelled", len(state.tasks), _GRACE_S)
            for task in [*state.tasks]:
                task.cancel()
            break
        if now() - begun >= _CLOSE_S:
            for connection in [*state.connections]:
                cycle = getattr(connection, "cycle", None)
                if cycle is None or cycle.response_complete:
                    connection.transport.abort()
        await asyncio.sleep(_LOOK_S)


def _parser(config: ApiConfig) -> Literal["h11", "httptools"]:
    if config.parser == "h11":
        return "h11"
    if find_spec("httptools") is None:
        raise ConfigError('parser = "httptools" needs httptools', remedy="pip install 'fleetcore-api[fast]'")
    return "httptools"


async def _tick(server: uvicorn.Server) -> None:
    while True:
        await server.on_tick(0)  # writes the Date header
        await asyncio.sleep(1)


def _bind(listener: Listener) -> list[socket.socket]:
    try:
        return bind(listener.host, listener.port)
    except OSError as error:
        raise NotReady(f"{listener.host}:{listener.port} cannot be bound: {error}") from error
