"""Authorization of calls: signatures of a shared access policy, or tokens of Microsoft Entra ID.

Refused credentials are read again at the next call, because the file or variable behind a reference may have been
renewed.
"""

import base64
import binascii
import hashlib
import hmac
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

from attrs import frozen

from fleetcore.errors import ConfigError

#: The validity of a signature, and how long before its end another one is made.
_LASTS_S, _RENEWED_S = 3600.0, 600.0
#: The minimum interval of reading refused credentials again.
_LOOKED_FOR_S = 5.0
#: The scope of a token of Entra ID (control access to IoT Hub by Entra ID).
_SCOPE = "https://iothubs.azure.net/.default"


@frozen(kw_only=True, repr=False)
class ConnectionString:
    """A shared access policy of one hub."""

    host: str
    policy: str
    key: bytes


def parsed(text: str, name: str) -> ConnectionString:
    """Parses a connection string from the setting ``name``. Raises ConfigError, which does not quote it."""
    parts = dict(part.split("=", 1) for part in text.strip().split(";") if "=" in part)
    try:
        key = base64.b64decode(parts["SharedAccessKey"], validate=True)
        return ConnectionString(host=parts["HostName"], policy=parts["SharedAccessKeyName"], key=key)
    except (KeyError, binascii.Error):
        raise ConfigError(
            f"The reference {name} must lead to a connection string of a shared access policy",
            remedy="Its form is HostName=…;SharedAccessKeyName=…;SharedAccessKey=…",
        ) from None


def signature(resource: str, policy: str, key: bytes, until_s: int) -> str:
    """The text of ``Authorization`` (control access with shared access signatures)."""
    named = quote_plus(resource)
    signed = base64.b64encode(hmac.digest(key, f"{named}\n{until_s}".encode(), hashlib.sha256)).decode()
    return f"SharedAccessSignature sr={named}&sig={quote(signed, safe='')}&se={until_s}&skn={policy}"


class Tokens(ABC):
    """One source of authorization; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text, self._until_s = "", 0.0
        self._looked_s = -_LOOKED_FOR_S
        self._refused = False

    def header(self) -> str:
        """The text of ``Authorization``."""
        with self._lock:
            anew = self._refused and time.monotonic() - self._looked_s >= _LOOKED_FOR_S
            if anew or time.time() > self._until_s - _RENEWED_S:
                self._looked_s = time.monotonic()
                self._text, self._until_s = self._made(anew=anew)
                self._refused = False
            return self._text

    def refused(self) -> None:
        """The hub refused the last one."""
        self._refused = True

    @abstractmethod
    def _made(self, *, anew: bool) -> tuple[str, float]:
        """A new one, and its end by the machine's clock: TLS and the hub do not use the fleet's clock."""


class Signatures(Tokens):
    """Signatures of a shared access policy, whose connection string is behind a reference."""

    def __init__(self, reference: str, name: str, secret: Callable[[str], str]) -> None:
        super().__init__()
        self._reference, self._name, self._secret = reference, name, secret
        self._known = self._read()

    @property
    def host(self) -> str:
        """The hub's."""
        return self._known.host

    def _read(self) -> ConnectionString:
        return parsed(self._secret(self._reference), self._name)

    def _made(self, *, anew: bool) -> tuple[str, float]:
        if anew:
            self._known = self._read()
        until_s = int(time.time() + _LASTS_S)
        return signature(self._known.host, self._known.policy, self._known.key, until_s), float(until_s)

    def for_device(self, name: str) -> tuple[str, float]:
        """A password for one device, and when to stop using it."""
        self.header()  # this reads a refused key again
        until_s = int(time.time() + _LASTS_S)
        resource = f"{self._known.host}/devices/{quote(name, safe='')}"
        return signature(resource, self._known.policy, self._known.key, until_s), until_s - _RENEWED_S


class EntraTokens(Tokens):
    """Tokens of Entra ID, from a credential of azure-identity."""

    def __init__(self, credential: Any) -> None:
        super().__init__()
        self._credential = credential

    def _made(self, *, anew: bool) -> tuple[str, float]:
        del anew  # the credential's own chain caches its token, and renews it in time
        token = self._credential.get_token(_SCOPE)
        return f"Bearer {token.token}", float(token.expires_on)


def default_credential() -> Any:
    """azure-identity's chain: the environment, the workload's or the machine's identity, the Azure CLI."""
    try:
        from azure.identity import DefaultAzureCredential
    except ModuleNotFoundError as error:
        raise ConfigError(
            "host without a connection string needs azure-identity", remedy="pip install 'fleetcore-azure[identity]'"
        ) from error
    return DefaultAzureCredential()
