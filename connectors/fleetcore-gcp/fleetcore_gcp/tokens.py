"""The token of calls, obtained before the call.

Within a call gRPC makes the SDK refresh it, and an error there becomes a text with the status ``UNAVAILABLE``, as if
Pub/Sub could not be reached. Here it keeps its meaning: refused credentials, a wrong clock, or no network.
"""

import threading
import time
from email.utils import parsedate_to_datetime
from typing import Any

from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request

#: Google's refusal of a signature by a wrong clock, with ``invalid_grant`` as for a deleted key
#: (https://developers.google.com/identity/protocols/oauth2/service-account#jwt-error-codes).
_OUT_OF_TIME = "reasonable timeframe"


class WrongClock(Exception):
    """No token was issued, because the clock of this machine differs from Google's.

    Attributes:
        ahead_s: how far it is ahead, negative if behind; None if Google's answer has no date.
    """

    def __init__(self, said: str, ahead_s: float | None) -> None:
        super().__init__(said)
        self.ahead_s = ahead_s


class Tokens:
    """Tokens of the SDK's own credentials. Every method may be called from any thread."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self._lock = threading.Lock()

    def fresh(self) -> None:
        """Ensures that there is a valid token; blocks while one is obtained.

        Raises:
            WrongClock: Google refused a signature by this machine's clock.
            google.auth.exceptions.GoogleAuthError: any other error of the SDK.
        """
        if self._credentials.valid:
            return
        with self._lock:
            if self._credentials.valid:
                return
            request = _Dated()
            try:
                self._credentials.refresh(request)
            except RefreshError as error:
                if _OUT_OF_TIME not in str(error):
                    raise
                raise WrongClock(str(error), request.ahead_s()) from error


class _Dated(Request):
    """The SDK's requests for tokens; remembers the time of the last answer, by the answer."""

    _date = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        answer = super().__call__(*args, **kwargs)  # type: ignore[no-untyped-call]  # the SDK's
        self._date = answer.headers.get("date", "")
        return answer

    def ahead_s(self) -> float | None:
        """How far the clock that signs tokens is ahead of the one that answered."""
        try:
            return time.time() - parsedate_to_datetime(self._date).timestamp()
        except ValueError:
            return None
