"""The only place that calls the hub: rate limited, in a bounded thread pool, with translated errors.

The SDK calls the service's API; a pool of connections calls the device's API, which the SDK lacks. The engine repeats
failed calls, so neither does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msrest.exceptions as sdk
import urllib3
from attrs import frozen
from azure.core.exceptions import SerializationError
from msrest.authentication import Authentication
from urllib3.util import Timeout

from fleetcore.errors import ConfigError
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.pool import Pool
from fleetcore.interfaces.provider import Context
from fleetcore_azure.actions import rates
from fleetcore_azure.config import AzureConfig
from fleetcore_azure.failures import HubFailed, from_answer
from fleetcore_azure.link import Door, trusting
from fleetcore_azure.sdk import Service, models
from fleetcore_azure.tokens import EntraTokens, Signatures, Tokens, default_credential

T = TypeVar("T")

#: The version of the device's API (IoT Hub REST, device); the service's is the SDK's.
_DEVICE_API = "2020-03-13"
#: Records per page of a query, and how often a query is restarted after its continuation is refused.
PAGE, _BEGUN = 100, 3


class _Authorized(Authentication):
    """Puts a token into each request of the SDK."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def signed_session(self, session: Any = None) -> Any:
        session = super().signed_session(session)
        session.headers["Authorization"] = self._tokens.header()
        return session


@frozen(kw_only=True)
class DeviceAnswer:
    """A successful answer of the device's API; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Clients:
    """See the module; open it with :func:`open_clients`.

    Attributes:
        pace: the rate limits, by class.
        host: the hub's host name.
        clock: the fleet's clock.
        door: the hub's endpoint for devices, if the mirror connects on their behalf.
    """

    def __init__(self, config: AzureConfig, context: Context) -> None:
        self.clock: Clock = context.clock
        self.pace = Pace(rates(config), context.clock)
        if config.connection_string is not None:
            service = Signatures(config.connection_string, "connection_string", context.secret)
            self.host = service.host
            self._tokens: Tokens = service
        else:
            self.host = config.host or ""
            self._tokens = EntraTokens(default_credential())
        self._device_tokens = self._tokens if isinstance(self._tokens, Signatures) else None
        if config.device_connection_string is not None:
            self._device_tokens = Signatures(
                config.device_connection_string, "device_connection_string", context.secret
            )
        self._endpoint = (config.endpoint or f"https://{self.host}").rstrip("/")
        if urlsplit(self._endpoint).scheme != "https" or not urlsplit(self._endpoint).hostname:
            raise ConfigError("The endpoint cannot be used", remedy="Write https://HOST")
        self._pool = Pool(config.threads, "fleetcore azure")
        self._service = self._made(config)
        self._devices = urllib3.PoolManager(
            num_pools=1,
            maxsize=config.threads,
            timeout=Timeout(connect=config.connect_timeout_s, read=config.read_timeout_s),
            retries=False,
            ca_certs=config.ca,
        )
        self.door = None if config.device_link is None else self._door(config)

    def _door(self, config: AzureConfig) -> Door:
        host, port = config.link_address(self.host)
        return Door(
            hub=self.host,
            host=host,
            port=port,
            tls=trusting(config.ca),
            connect_timeout_s=config.connect_timeout_s,
            read_timeout_s=config.read_timeout_s,
        )

    def _made(self, config: AzureConfig) -> Any:
        service = Service(_Authorized(self._tokens), self._endpoint)
        own = service.config
        own.keep_alive = True  # otherwise each call opens a new connection
        own.connection.timeout = (config.connect_timeout_s, config.read_timeout_s)
        if config.ca is not None:
            own.connection.verify = config.ca
        own.retry_policy.retries = 0
        own.retry_policy.policy.status_forcelist = frozenset()
        own.add_user_agent("fleetcore-azure")
        return service

    # -- the service's API ------------------------------------------------------------------------------------------

    async def call(self, action: str, work: Callable[[Any], T]) -> T:
        """Runs ``work`` with the SDK's client in a thread.

        Raises:
            HubFailed: for every failure, and nothing else.
        """
        return await self._paced(action, lambda: self._run(action, work), self._tokens)

    def _run(self, action: str, work: Callable[[Any], T]) -> T:
        try:
            return work(self._service)
        except sdk.HttpOperationError as error:
            answer = error.response
            headers = {name.lower(): value for name, value in answer.headers.items()}
            raise from_answer(action, answer.status_code, answer.text, headers, time.time()) from error
        except (sdk.ValidationError, SerializationError) as error:
            raise HubFailed(action, "invalid", str(error)) from error
        except (sdk.ClientException, OSError, ValueError) as error:
            # Connections refused, timed out, cut; unresolvable names; unreadable answers.
            raise HubFailed(action, "unavailable", str(error), lost=True) from error
        except Exception as error:
            if type(error).__module__.startswith("azure."):  # azure-identity found no credentials
                raise HubFailed(action, "credentials", str(error)) from error
            raise

    async def queried(self, text: str) -> AsyncIterator[Any]:
        """The twins of a query, page by page. If the hub refuses a continuation, it starts again.

        Then a twin may be repeated. The index lags behind the twins, so its content may be outdated.

        Raises:
            HubFailed: as :meth:`call`.
        """
        begun, after = 1, None
        while True:
            try:
                page, following = await self.page(text, after)
            except HubFailed as failed:
                if failed.kind != "invalid" or after is None or begun == _BEGUN:
                    raise
                begun, after = begun + 1, None
                continue
            for each in page:
                yield each
            if following is None:
                return
            after = following

    async def page(self, text: str, after: str | None) -> tuple[list[Any], str | None]:
        """One page of a query's twins, and where to continue. Raises HubFailed."""

        def work(service: Any) -> tuple[list[Any], str | None]:
            answer = service.query.get_twins(
                models.QuerySpecification(query=text),
                x_ms_continuation=after,
                x_ms_max_item_count=str(PAGE),
                raw=True,
            )
            if answer.output is None:
                raise ValueError("the answer lacks twins; it was truncated")
            return answer.output, answer.headers.get("x-ms-continuation") or None

        return await self.call("twins/query", work)

    async def count(self, where: str) -> int:
        """The number of devices in a query's index that match a condition. Raises HubFailed."""

        def work(service: Any) -> int:
            text = f"SELECT COUNT() AS number FROM devices WHERE {where}"  # noqa: S608 - as held.select
            answer = service.query.get_twins(models.QuerySpecification(query=text), raw=True)
            # An empty page means a count of zero; the SDK turns other records into twins.
            return sum(int(each["number"]) for each in answer.response.json())

        return await self.call("twins/query", work)

    # -- the device's API -------------------------------------------------------------------------------------------

    async def for_device(
        self,
        action: str,
        method: str,
        name: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> DeviceAnswer:
        """Calls the API of the device ``name``. Raises HubFailed."""
        tokens = self._device_tokens
        if tokens is None:
            raise HubFailed(action, "credentials", "no device_connection_string is configured")
        url = f"{self._endpoint}/devices/{quote(name, safe='')}/messages/{path}?api-version={_DEVICE_API}"

        def work() -> DeviceAnswer:
            try:
                answer = self._devices.request(
                    method, url, body=body, headers={"authorization": tokens.header(), **(headers or {})}
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise HubFailed(action, "unavailable", str(error), lost=True) from error
            given = {key.lower(): value for key, value in answer.headers.items()}
            if answer.status >= 300:
                text = answer.data.decode("utf-8", "replace")
                raise from_answer(action, answer.status, text, given, time.time())
            return DeviceAnswer(status=answer.status, headers=given, body=answer.data)

        return await self._paced(action, work, tokens)

    async def for_link(self, action: str, work: Callable[[Signatures], T]) -> T:
        """Runs ``work`` with a device's connection in a thread. Raises HubFailed, like ``work``."""
        tokens = self._device_tokens
        if tokens is None:
            raise HubFailed(action, "credentials", "no device_connection_string is configured")
        return await self._paced(action, lambda: work(tokens), tokens)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs something other than a call in a thread, such as closing a connection."""
        return await self._pool.run(work)

    def key_refused(self) -> None:
        """The hub refused a device, not because of the device: the key is read again."""
        if self._device_tokens is not None:
            self._device_tokens.refused()

    # -- both -------------------------------------------------------------------------------------------------------

    async def _paced(self, action: str, work: Callable[[], T], tokens: Tokens) -> T:
        await self.pace.take(action)
        try:
            return await self._pool.run(work)
        except HubFailed as failed:
            if failed.paced:
                self.pace.slow_down(action, failed.retry_after_s)
            if failed.kind == "credentials":
                tokens.refused()
            raise

    def close(self) -> None:
        """Waits for calls under way, and closes every connection."""
        self._pool.close()
        self._service.close()
        self._devices.clear()


@asynccontextmanager
async def open_clients(config: AzureConfig, context: Context) -> AsyncIterator[Clients]:
    """Clients within the context. Raises :class:`ConfigError` if none can be made."""
    clients = await asyncio.to_thread(Clients, config, context)
    try:
        yield clients
    finally:
        await asyncio.to_thread(clients.close)
