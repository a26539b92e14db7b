"""Listening: the adapter that the core opens, and the one function for every request."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ssl import SSLContext

from aiohttp import web

from fleetcore.errors import FleetError, NotAuthenticated, NotAuthorised
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import DevicePlane, ProtocolAdapter
from fleetcore.interfaces.provider import Context
from fleetcore.interfaces.waits import end_task
from fleetcore.listening.lateness import sweeps
from fleetcore.listening.listener import Listener as OpenListener
from fleetcore.listening.sockets import names, open_sockets
from fleetcore.model.message import Rejected
from fleetcore.wire.endpoints import Listener
from fleetcore.wire.headers import Headers
from fleetcore.wire.proxies import proxies
from fleetcore.wire.replies import rejection
from fleetcore_http import routes
from fleetcore_http.app_state import AppState
from fleetcore_http.bodies import BodyLimitError
from fleetcore_http.config import HttpConfig
from fleetcore_http.connection import DeviceConnection, DeviceServer
from fleetcore_http.exchange import Exchange
from fleetcore_http.holders import Holders
from fleetcore_http.identity import identify
from fleetcore_http.problems import problem

#: How long an answer may take while closing.
_DRAIN_S = 10.0

#: After a refusal, data of the peer is read this long, so that the peer can read the answer (RFC 9112 §9.6).
_LINGER_S = 1.0


class Handler:
    """Answers requests; one for all connections."""

    def __init__(self, state: AppState) -> None:
        self.state = state

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to ``request``; never raises for an invalid request."""
        connection = request.protocol
        assert isinstance(connection, DeviceConnection)
        connection.begin()
        exchange = Exchange(state=self.state, connection=connection, request=request)
        try:
            response = await self._answer(exchange)
        except BodyLimitError as error:
            limit = self.state.context.limits.message_bytes
            refusal = Rejected(code=error.code, reason=error.message, limit=limit, unit="bytes", scope="message")
            exchange.note_refused(refusal)
            response = problem(refusal)
            response.force_close()
        except FleetError as error:
            refusal = rejection(error)
            exchange.note_refused(refusal)
            response = problem(refusal)
            if isinstance(error, NotAuthenticated | NotAuthorised) and not (connection.sessions or connection.proxied):
                # A peer without an accepted credential cannot keep its connection.
                response.force_close()
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            self.state.context.logger.exception("%s %s failed", request.method, request.path)
            response = problem(Rejected(code="internal", reason="An internal error"))
        finally:
            connection.end()
        if not response.prepared:
            await exchange.note_pending(response)
        if (
            not request.content.is_eof()
        ):  # a refusal before the body was read: the following bytes cannot be interpreted
            response.force_close()
        return response

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        request = exchange.request
        exchange.headers = Headers.of(request.raw_headers)
        target = request.raw_path
        path = target.partition("?")[0] if target.startswith("/") else request.rel_url.raw_path
        match = routes.find(path)
        exchange.leaf, exchange.target = match.leaf, match.target
        route = match.methods.get(request.method)
        if route is None:
            return self._nothing_there(exchange, match)
        exchange.row = route.row
        if not route.open:
            exchange.session = await identify(exchange.connection, exchange.headers)
        return await route.handler(exchange)

    def _nothing_there(self, exchange: Exchange, match: routes.Match) -> web.Response:
        if not match.methods:
            nothing = Rejected(code="operation_unknown", reason="Nothing is served at this path")
            exchange.note_refused(nothing)
            return problem(nothing)
        methods = ", ".join(match.methods)
        refusal = Rejected(code="operation_unknown", reason=f"This path takes {methods}")
        exchange.note_refused(refusal)
        response = problem(refusal, status=405)
        response.headers["Allow"] = methods
        return response


class HttpAdapter(ProtocolAdapter):
    """An open listener; made by :func:`serve`."""

    def __init__(
        self, state: AppState, server: DeviceServer, listening: OpenListener, endpoints: Sequence[str]
    ) -> None:
        self._state = state
        self._server = server
        self._listening = listening
        self._endpoints = tuple(endpoints)

    @property
    def endpoints(self) -> Sequence[str]:
        return self._endpoints

    @property
    def connections(self) -> int:
        return len(self._server.open)

    async def drain(self) -> None:
        """Stops accepting, makes long polls answer now, and waits at most 10 s for the requests under way.

        Every connection is closed after its answer; a request with an incomplete body is aborted.
        """
        self._state.draining = True
        self._listening.close()
        for connection in self._server.open:
            connection.end_poll()
            if connection.reading_body:
                connection.abort()
        self._server.pre_shutdown()
        await self._server.shutdown(_DRAIN_S)


@asynccontextmanager
async def serve(config: HttpConfig, context: Context, plane: DevicePlane, ingest: Ingest) -> AsyncIterator[HttpAdapter]:
    """Listens as ``config`` says until the context ends; raises as :func:`fleetcore_http.plugin.open_http`."""
    config.check()
    listener = config.listener()
    limits = context.listening.limits
    reached = partial(_too_many, context)
    state = AppState(
        config=config,
        context=context,
        plane=plane,
        ingest=ingest,
        proxies=proxies(config.trusted_proxies),
        clock=context.clock,
        deadlines=config.deadlines(limits),
        holders=Holders(limits.per_identity, reached),
        polls=Holders(limits.per_identity, reached),
    )
    server = DeviceServer(
        state,
        Handler(state),
        keepalive_timeout=state.deadlines.idle_s,
        lingering_time=_LINGER_S,
        logger=context.logger,
        access_log=None,
        auto_decompress=False,  # bodies.inflate does it, within the limit
    )
    listening = _listen(listener, config, context, server)
    adapter = HttpAdapter(state, server, listening, _endpoints(listener, listening))
    sweeper = asyncio.create_task(_sweep(state, server), name=f"{context.name}: sweep")
    try:
        yield adapter
    finally:
        await end_task(sweeper)
        await adapter.drain()
        await listening.wait_closed()


def _too_many(context: Context, identity: str) -> None:
    remedy = f"the oldest of {identity} ends; [listeners] per_identity limits connections and long polls of a device"
    context.listening.note(context.name, "per_identity", remedy)


def _listen(listener: Listener, config: HttpConfig, context: Context, server: DeviceServer) -> OpenListener:
    tls: SSLContext | None = None
    if listener.tls:
        tls = context.server_tls(config.listen, plain="http://127.0.0.1:PORT", enrolling=True)
    bound = open_sockets(config.listen, listener.host, listener.port)
    opened = OpenListener(context.name, bound, server.connection, context.listening, context.clock, tls=tls)
    opened.open()
    return opened


def _endpoints(listener: Listener, listening: OpenListener) -> list[str]:
    scheme = "https" if listener.tls else "http"
    return [f"{scheme}://{name}" for name in names(listener.host, listening.sockets)]


async def _sweep(state: AppState, server: DeviceServer) -> None:
    async for now in sweeps(state.clock):
        server.sweep(now)
