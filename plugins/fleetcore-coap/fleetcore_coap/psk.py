"""Pre-shared keys in OpenSSL handshakes (RFC 4279).

pyOpenSSL has no method for them, but the bindings below it do. So only this module accesses private parts of both: the
bindings, and the pointer in a context. :func:`require` checks that they exist.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL, _util

from fleetcore.errors import ConfigError

_log = logging.getLogger(__name__)
_lib: Any = _util.lib
_ffi: Any = _util.ffi

#: Bytes of a random key that is never given out.
_KEY_BYTES = 32
#: Callbacks must live as long as the contexts that call them.
_KEPT = "_fleetcore_psk_callback"


def require() -> None:
    """Raises ConfigError if the installed OpenSSL or its bindings lack pre-shared keys."""
    wanted = ("SSL_CTX_set_psk_server_callback", "SSL_CTX_set_psk_client_callback")
    if not getattr(_lib, "Cryptography_HAS_PSK", 0) or not all(hasattr(_lib, name) for name in wanted):
        raise ConfigError(
            "The installed OpenSSL has no pre-shared keys (it was built without PSK, or cryptography has no bindings)",
            remedy="Install the cryptography wheel of PyPI, or set psk = false under [protocols.coap]",
        )


def nobodys_key() -> bytes:
    """A random key: a handshake with it fails as with a wrong key."""
    return os.urandom(_KEY_BYTES)


def ask_for_keys(context: SSL.Context, key_of: Callable[[bytes], bytes]) -> None:
    """Makes a server's context call ``key_of(identity)`` in handshakes; it must not block. Raises as :func:`require`.

    The identity is the one that OpenSSL has read, up to a NUL if it has one. If ``key_of`` raises, the handshake fails.
    """
    require()

    def answer(_ssl: object, identity: Any, key: Any, most: int) -> int:
        return _put(key_of(_ffi.string(identity)), key, most)

    _keep(context, "unsigned int(SSL *, char *, unsigned char *, unsigned int)", answer)
    _lib.SSL_CTX_set_psk_server_callback(_pointer(context), _kept(context))


def show_key(context: SSL.Context, identity: bytes, key: bytes) -> None:
    """Makes a client's context prove that it has the ``key`` of ``identity``. Raises as :func:`require`."""
    require()

    def answer(_ssl: object, _hint: object, name: Any, longest: int, secret: Any, most: int) -> int:
        if len(identity) >= longest:  # a NUL ends it
            return 0
        _ffi.memmove(name, identity + b"\0", len(identity) + 1)
        return _put(key, secret, most)

    _keep(context, "unsigned int(SSL *, char *, char *, unsigned int, unsigned char *, unsigned int)", answer)
    _lib.SSL_CTX_set_psk_client_callback(_pointer(context), _kept(context))


def _put(key: bytes, room: Any, most: int) -> int:
    if len(key) > most:
        return 0
    _ffi.memmove(room, key, len(key))
    return len(key)


def _pointer(context: SSL.Context) -> Any:
    return context._context


def _keep(context: SSL.Context, kind: str, answer: Callable[..., int]) -> None:
    # An error must not pass through OpenSSL: without a key the handshake ends with an alert.
    setattr(context, _KEPT, _ffi.callback(kind, answer, error=0, onerror=_no_key))


def _no_key(_kind: object, error: BaseException, _trace: object) -> int:
    _log.error("A key could not be passed to OpenSSL", exc_info=error)
    return 0


def _kept(context: SSL.Context) -> Any:
    return getattr(context, _KEPT)
