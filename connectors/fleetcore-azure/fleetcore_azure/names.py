"""The alphabets of names at Azure IoT Hub."""

import hashlib

from fleetcore.interfaces.escape import Escape

#: Device ids: 128 characters of ASCII letters, digits and ``- : . + % _ # * ? ! ( ) , = @ ; $ '`` (device identity
#: properties). Only those that need no escape in a URL, a topic or a query are used.
DEVICE = Escape(plain="a-zA-Z0-9._-", mark=":", longest=128)
#: Keys in tags and desired properties: no control characters, ``.``, ``$`` and space, 1 KB (tags and properties
#: format). All non-ASCII characters are escaped too, so that every way of counting gives the same length.
KEY = Escape(plain="a-zA-Z0-9_-", mark=":", longest=1024)


def digest(text: str) -> str:
    """Sixteen hexadecimal digits that represent a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
