"""The only place that calls the SDK: rate limited, in a bounded thread pool, with translated errors.

The engine repeats failed calls, so the SDK does not. Refused credentials are read again at the next call, because a
file may have been renewed: the SDK itself reads it only once.
"""

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import boto3
import botocore.exceptions as sdk
import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.loaders import create_loader

from fleetcore.errors import ConfigError
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.pool import Pool
from fleetcore.interfaces.provider import Context
from fleetcore_aws import answers
from fleetcore_aws.actions import RATES
from fleetcore_aws.config import AwsConfig
from fleetcore_aws.failures import CallFailed, from_answer

#: Service models, loaded once per process: loading them takes most of the time of making a client.
_MODELS = create_loader()

#: The minimum interval of reading refused credentials again: making clients costs a tenth of a second.
_RENEW_EVERY_S = 5.0

#: Records per page, AWS's maximum; and how often a list is restarted after its page token is refused.
_PAGE, _BEGUN = 250, 3

#: action → service and method of the SDK, if they do not follow from its name.
_DATA = {
    "iot:GetThingShadow": "get_thing_shadow",
    "iot:UpdateThingShadow": "update_thing_shadow",
    "iot:DeleteThingShadow": "delete_thing_shadow",
    "iot:ListNamedShadowsForThing": "list_named_shadows_for_thing",
    "iot:Publish": "publish",
}
#: Prefix of actions → service of the SDK, where they differ.
_SERVICES = {"iotjobsdata": "iot-jobs-data"}
#: Services with endpoints per account → their types: ``-ATS`` has a certificate from a CA that is trusted today.
_OWN_ENDPOINTS = {"iot-data": "iot:Data-ATS", "iot-jobs-data": "iot:Jobs"}
#: A batch needs the permission of its single action.
_BATCHES = {
    "sqs:SendMessage": "send_message_batch",
    "sqs:DeleteMessage": "delete_message_batch",
    "sqs:ChangeMessageVisibility": "change_message_visibility_batch",
}

_NO_CREDENTIALS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.NoAuthTokenError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
)


@functools.cache
def method_of(action: str) -> tuple[str, str]:
    """The SDK's service and method of an action."""
    prefix, name = action.split(":")
    service = _SERVICES.get(prefix, prefix)
    if action in _DATA:
        return "iot-data", _DATA[action]
    if action in _BATCHES:
        return service, _BATCHES[action]
    return service, xform_name(name)


class Clients:
    """See the module; open it with :func:`open_clients`.

    Attributes:
        pace: the rate limits, by action.
        region: the region of the calls.
    """

    def __init__(self, config: AwsConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self.pace = Pace(RATES, clock)
        self.region = ""
        self._pool = Pool(config.threads, "fleetcore aws")
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._old: list[Any] = []
        self._refused = False
        self._made_s = -_RENEW_EVERY_S

    async def call(self, action: str, **arguments: object) -> answers.Answer:
        """Calls an action.

        Raises:
            CallFailed: for every failure, and nothing else.
        """
        await self.pace.take(action)
        try:
            return await self._pool.run(functools.partial(self._run, action, arguments))
        except CallFailed as failed:
            if failed.paced:
                self.pace.slow_down(action, failed.retry_after_s)
            self._refused = self._refused or failed.kind == "credentials"
            raise

    async def listed(self, action: str, member: str, **arguments: object) -> AsyncIterator[answers.Answer]:
        """The records of a list, page by page. If AWS refuses a page token, the list starts again.

        Then a record may be repeated.

        Raises:
            CallFailed: as :meth:`call`.
        """
        begun, after = 1, dict[str, object]()
        while True:
            try:
                answer = await self.call(action, maxResults=_PAGE, **arguments, **after)
            except CallFailed as failed:
                if failed.kind != "invalid" or not after or begun == _BEGUN:
                    raise
                begun, after = begun + 1, {}
                continue
            for each in answers.records(action, answer, member):
                yield each
            token = answers.optional_text(answer, "nextToken")
            if token is None:
                return
            after = {"nextToken": token}

    async def beside(self, action: str, **arguments: object) -> None:
        """A call whose failure is ignored."""
        with suppress(CallFailed):
            await self.call(action, **arguments)

    def _run(self, action: str, arguments: Mapping[str, object]) -> answers.Answer:
        service, method = method_of(action)
        try:
            client = self._client(service)
            answer: dict[str, Any] = getattr(client, method)(**arguments)
            if hasattr(answer.get("payload"), "read"):
                answer["payload"] = answer["payload"].read()
        except CallFailed:
            raise
        except sdk.ClientError as error:
            raise _from_client(action, error) from error
        except _NO_CREDENTIALS as error:
            raise CallFailed(action, "credentials", str(error)) from error
        except sdk.ParamValidationError as error:
            raise CallFailed(action, "invalid", str(error)) from error
        except (sdk.BotoCoreError, OSError) as error:
            # Connections refused, timed out, cut; unresolvable names; unreadable answers.
            raise CallFailed(action, "unavailable", str(error), lost=True) from error
        return answer

    def _client(self, service: str) -> Any:
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._refused and now_s - self._made_s >= _RENEW_EVERY_S:
                self._old += self._clients.values()  # calls may be under way: they are closed at the end
                self._session, self._clients, self._refused = None, {}, False
            if self._session is None:
                core = botocore.session.Session(profile=self._config.profile)
                core.register_component("data_loader", _MODELS)
                self._session = boto3.Session(botocore_session=core, region_name=self._config.region)
                self._made_s = now_s
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def _make(self, service: str) -> Any:
        config = self._config
        endpoint = config.endpoint
        if service in _OWN_ENDPOINTS and endpoint is None:
            known = config.data_endpoint if service == "iot-data" else config.jobs_endpoint
            endpoint = known or self._own_endpoint(_OWN_ENDPOINTS[service])
        wait_s = max(config.read_timeout_s, config.queue_wait_s + 10) if service == "sqs" else config.read_timeout_s
        return self._session.client(
            service,
            endpoint_url=endpoint,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 1},
                connect_timeout=config.connect_timeout_s,
                read_timeout=wait_s,
                max_pool_connections=config.threads,
                tcp_keepalive=True,
                # What is sent was made to fit before (fitting is pure), and AWS checks the rest.
                parameter_validation=False,
                user_agent_extra="fleetcore-aws",
            ),
        )

    def _own_endpoint(self, type_: str) -> str:
        action = "iot:DescribeEndpoint"
        if "iot" not in self._clients:
            self._clients["iot"] = self._make("iot")
        try:
            answer = self._clients["iot"].describe_endpoint(endpointType=type_)
        except sdk.ClientError as error:
            raise _from_client(action, error) from error
        return f"https://{answers.text(action, answer, 'endpointAddress')}"

    def check_config(self) -> None:
        """Raises :class:`ConfigError` if no client can be made: no region, or an unknown profile."""
        try:
            self.region = str(self._client("iot").meta.region_name)
        except sdk.NoRegionError as error:
            raise ConfigError("No region is configured", remedy='Add region = "eu-central-1"') from error
        except sdk.ProfileNotFound as error:
            raise ConfigError(str(error), remedy="Name a profile of ~/.aws/config") from error
        except ValueError as error:
            raise ConfigError(f"The endpoint cannot be used: {error}", remedy="Write https://HOST") from error

    def close(self) -> None:
        """Waits for calls under way, and closes every connection."""
        self._pool.close()
        for client in (*self._old, *self._clients.values()):
            client.close()


def _from_client(action: str, error: sdk.ClientError) -> CallFailed:
    said = error.response.get("Error", {})
    meta = error.response.get("ResponseMetadata", {})
    return from_answer(
        action,
        said.get("Code") or "Unknown",
        said.get("Message") or "",
        meta.get("HTTPStatusCode", 0),
        meta.get("HTTPHeaders", {}),
        time.time(),  # the clock with which the SDK signs, whatever the fleet's clock is
    )


@asynccontextmanager
async def open_clients(config: AwsConfig, context: Context) -> AsyncIterator[Clients]:
    """Clients within the context. Raises :class:`ConfigError` if none can be made."""
    clients = Clients(config, context.clock)
    try:
        await asyncio.to_thread(clients.check_config)
        yield clients
    finally:
        await asyncio.to_thread(clients.close)
