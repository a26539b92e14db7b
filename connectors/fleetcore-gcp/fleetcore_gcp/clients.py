"""The only place that calls the SDK: rate limited, in a bounded thread pool, with translated errors.

It uses the SDK's request layer (``google.pubsub_v1``), not its batching publisher. That one starts a thread for each
batch and decides itself which messages share a request. A mirror must know which messages of which device were
accepted, keeps one request of an ordering key under way, and repeats failed ones itself. So no key is ever paused at
the client. Refused credentials are read again, because a file may have been renewed.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import google.auth
import grpc
from google.auth.credentials import AnonymousCredentials
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.pool import Pool
from fleetcore.interfaces.provider import Context
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.failures import from_sdk
from fleetcore_gcp.permissions import RATES
from fleetcore_gcp.tokens import Tokens

_T = TypeVar("_T")

_SCOPES = ("https://www.googleapis.com/auth/pubsub",)
#: The minimum interval of reading refused credentials again: making clients costs connections.
_RENEW_EVERY_S = 5.0
#: The maximum wait before a connection is retried; the SDK's own is two minutes. Each has its own channel, because gRPC
#: shares connections, and their waiting, between equal channels.
_CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # the time limit of an attempt
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.use_local_subchannel_pool", 1),
)


class Clients:
    """See the module; open it with :func:`open_clients`.

    Attributes:
        pace: the rate limits, by class.
    """

    def __init__(self, config: GcpConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self.pace = Pace(RATES, clock)
        self._pool = Pool(config.threads, "fleetcore gcp")
        self._lock = threading.Lock()
        self._publisher: PublisherClient | None = None
        self._subscriber: SubscriberClient | None = None
        self._tokens = Tokens(AnonymousCredentials())  # type: ignore[no-untyped-call]  # the SDK's
        self._old: list[PublisherClient | SubscriberClient] = []
        self._refused = False
        self._made_s = -_RENEW_EVERY_S

    async def publishing(
        self, permission: str, method: str, request: object, *, pace: str = "admin", units: int = 1
    ) -> Any:
        """Calls a method of the publisher's side with the SDK's request; topics belong to this side.

        Args:
            permission: the permission of the call.
            pace: the class of the call, and the ``units`` of it that it uses.

        Raises:
            CallFailed: for every failure, and nothing else.
        """
        return await self._call(permission, lambda: getattr(self._clients()[0], method), request, pace, units)

    async def subscribing(self, permission: str, method: str, request: object, *, pace: str = "admin") -> Any:
        """The same for the subscriber's side."""
        return await self._call(permission, lambda: getattr(self._clients()[1], method), request, pace, 1)

    async def _call(
        self, permission: str, method: Callable[[], Callable[..., _T]], request: object, pace: str, units: int
    ) -> _T:
        await self.pace.take(pace, units)
        try:
            return await self._pool.run(partial(self._run, method, request))
        except Exception as error:
            failed = from_sdk(permission, error)
            if failed.paced:
                self.pace.slow_down(pace, failed.retry_after_s)
            self.refused(kind=failed.kind)
            raise failed from error

    def _run(self, method: Callable[[], Callable[..., _T]], request: object) -> _T:
        call = method()
        self._tokens.fresh()
        return call(request=request, retry=None, timeout=self._config.answer_timeout_s)

    def stream(self, requests: Any, metadata: Any) -> Any:
        """A streaming pull, to be iterated and cancelled; blocks, and raises the SDK's errors.

        The stub, because the client around it waits for the first message before it returns the call.
        """
        stub: Any = self._clients()[1].transport.streaming_pull
        self._tokens.fresh()
        return stub(requests, metadata=metadata)

    def refused(self, kind: str) -> None:
        """Notes that credentials were refused: the next call reads them again."""
        self._refused = self._refused or kind == "credentials"

    def _clients(self) -> tuple[PublisherClient, SubscriberClient]:
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._refused and now_s - self._made_s >= _RENEW_EVERY_S:
                # Calls may be under way: they are closed at the end.
                self._old += [each for each in (self._publisher, self._subscriber) if each is not None]
                self._publisher = self._subscriber = None
                self._refused = False
            if self._publisher is None or self._subscriber is None:
                self._publisher, self._subscriber = self._make()
                self._made_s = now_s
            return self._publisher, self._subscriber

    def _make(self) -> tuple[PublisherClient, SubscriberClient]:
        config = self._config
        credentials = AnonymousCredentials() if config.emulator else google.auth.default(scopes=_SCOPES)[0]  # type: ignore[no-untyped-call]  # the SDK's
        self._tokens = Tokens(credentials)
        publishing = PublisherGrpcTransport(host=config.host, credentials=credentials, channel=self._channel)
        subscribing = SubscriberGrpcTransport(host=config.host, credentials=credentials, channel=self._channel)
        return PublisherClient(transport=publishing), SubscriberClient(transport=subscribing)

    def _channel(self, host: str, **given: Any) -> grpc.Channel:
        options = [*given.pop("options", ()), *_CHANNEL]
        if self._config.emulator:
            return grpc.insecure_channel(host, options=options)
        return PublisherGrpcTransport.create_channel(host, options=options, **given)

    def close(self) -> None:
        """Waits for calls under way, and closes every connection."""
        self._pool.close()
        for client in (*self._old, self._publisher, self._subscriber):
            if client is not None:
                client.transport.close()  # type: ignore[no-untyped-call]  # the SDK's


@asynccontextmanager
async def open_clients(config: GcpConfig, context: Context) -> AsyncIterator[Clients]:
    """Clients within the context."""
    clients = Clients(config, context.clock)
    try:
        yield clients
    finally:
        await asyncio.to_thread(clients.close)
