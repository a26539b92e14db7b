"""Google's token endpoint, as service account keys use it: a token for a signed, current JWT."""

import base64
import datetime as dt
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fleetcore.testing.http1 import Answer, Request, Server
from fleetcore_gcp.testing.faults import Faults

#: RFC 7523: the validity of a JWT and a token, and the allowed clock difference.
_LASTS_S, _DIFFER_S = 3600, 300
_OUT_OF_TIME = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
    "Check your iat and exp values in the JWT claim."
)


class Endpoint:
    """See the module; open it with :func:`open_endpoint`.

    Attributes:
        url: the token URL of keys.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._given: set[str] = set()
        self.url = ""

    @property
    def given(self) -> int:
        """How many tokens were issued."""
        return len(self._given)

    def write_key(self, file: Path) -> None:
        """Writes the key file of a service account whose tokens come from here."""
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        account = {"type": "service_account", "project_id": "trial-project", "client_id": "1"}
        account |= {"client_email": "fleet@trial-project.iam.gserviceaccount.com"}
        file.write_text(json.dumps({**account, "private_key_id": "1", "private_key": pem, "token_uri": self.url}))

    def takes(self, metadata: Any) -> bool:
        """Whether a call's metadata has a token that was issued here."""
        return any(name == "authorization" and value in self._given for name, value in metadata)

    async def answer(self, request: Request) -> Answer:
        """Issues a token, or gives the reason of the refusal."""
        if self._faults.down:
            return Answer(fate="none")
        now_s = time.time() + self._faults.skew_s
        head = {"date": format_datetime(dt.datetime.fromtimestamp(now_s, dt.UTC), usegmt=True)}
        refused = self._refused(parse_qs(request.body.decode())["assertion"][0], now_s)
        if refused:
            said = {"error": "invalid_grant", "error_description": refused}
            return Answer(status=400, body=json.dumps(said).encode(), headers=head)
        token = f"token-{len(self._given)}"
        self._given.add(f"Bearer {token}")
        good = {"access_token": token, "expires_in": _LASTS_S, "token_type": "Bearer"}
        return Answer(body=json.dumps(good).encode(), headers=head)

    def _refused(self, jwt: str, now_s: float) -> str:
        signed, _, signature = jwt.rpartition(".")
        try:
            self._key.public_key().verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), SHA256())
        except InvalidSignature:
            return "Invalid JWT Signature."
        claims = json.loads(_decoded(signed.partition(".")[2]))
        in_time = claims["iat"] - _DIFFER_S <= now_s <= claims["exp"] + _DIFFER_S
        return "" if in_time and claims["exp"] - claims["iat"] <= _LASTS_S else _OUT_OF_TIME


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@asynccontextmanager
async def open_endpoint(faults: Faults) -> AsyncIterator[Endpoint]:
    """Listens on the loopback within the context."""
    endpoint = Endpoint(faults)
    async with Server(endpoint.answer) as server:
        endpoint.url = f"{server.endpoint}/token"
        yield endpoint
