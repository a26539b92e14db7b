"""Allowed names: the alphabets of wire.md §1 and wire.md §3, in one place.

A valid name is safe as an MQTT topic level, an HTTP path segment and a certificate's common name.
"""

import re

from fleetcore.errors import Refused

#: The characters of a metric's name, for patterns: a character class, or a part of a wider one.
METRIC_ALPHABET = r"A-Za-z0-9._/\-"
MAX_METRIC_LENGTH = 64
#: The same in words.
METRIC_IN_WORDS = f"1-{MAX_METRIC_LENGTH} characters of A-Z a-z 0-9 . _ / -"

_DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LABEL = re.compile(r"(?! )[A-Za-z0-9 ._/:-]{1,128}(?<! )", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9._/:+-](?:[A-Za-z0-9 ._/:+-]{0,126}[A-Za-z0-9._/:+-])?", re.ASCII)
_METRIC = re.compile(rf"[{METRIC_ALPHABET}]{{1,{MAX_METRIC_LENGTH}}}", re.ASCII)
_FLEET = re.compile(r"[a-z0-9-]{1,32}", re.ASCII)
_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,64}", re.ASCII)


def is_device_id(text: str) -> bool:
    """Whether ``text`` is 1-64 characters of ``A-Z a-z 0-9 . _ -`` starting with a letter or digit."""
    return _DEVICE_ID.fullmatch(text) is not None


def is_metric(text: str) -> bool:
    """Whether ``text`` is a metric's name: ``METRIC_IN_WORDS``."""
    return _METRIC.fullmatch(text) is not None


def is_message_id(text: str) -> bool:
    """Whether ``text`` is 1-64 printable ASCII characters without space."""
    return _MESSAGE_ID.fullmatch(text) is not None


def _text(value: object) -> str:
    # Scripts are not type-checked: a name that is not text is refused like any other invalid name.
    return value if isinstance(value, str) else ""


def check_device_id(text: str) -> str:
    """Returns ``text``; raises :class:`Refused` (``name_invalid``) where it is not a device id."""
    if not _DEVICE_ID.fullmatch(_text(text)):
        raise Refused(
            f"{text!r} is not a device id",
            code="name_invalid",
            remedy="Use 1-64 characters of A-Z a-z 0-9 . _ - that start with a letter or digit",
        )
    return text


def check_label(text: str, what: str) -> str:
    """Returns ``text``; raises :class:`Refused` where it is not a type, model, group or tag name."""
    if not _LABEL.fullmatch(_text(text)):
        raise Refused(
            f"{text!r} is no {what} name",
            code="name_invalid",
            remedy="Use 1-128 characters of letters, digits, space and . _ / : -, no space first or last",
        )
    return text


def check_version(text: str) -> str:
    """Returns ``text``; raises :class:`Refused` where it is not a firmware version (``1.2.3+4`` is)."""
    if not _VERSION.fullmatch(_text(text)):
        raise Refused(
            f"{text!r} is not a version",
            code="name_invalid",
            remedy="Use 1-128 characters of letters, digits, space and . _ / : + -, no space first or last",
        )
    return text


def check_metric(text: str) -> str:
    """Returns ``text``; raises :class:`Refused` (``metric_name_invalid``) where it is not a metric name."""
    if not _METRIC.fullmatch(_text(text)):
        raise Refused(
            f"{text!r} is not a metric name",
            code="metric_name_invalid",
            remedy=f"Use {METRIC_IN_WORDS}",
        )
    return text


def check_fleet(text: str) -> str:
    """Returns ``text``; raises :class:`Refused` where it is not a fleet name."""
    if not _FLEET.fullmatch(_text(text)):
        raise Refused(f"{text!r} is not a fleet name", code="name_invalid", remedy="Use 1-32 characters of a-z 0-9 -")
    return text


def device_uri(fleet: str, device: str) -> str:
    """The one SAN URI of a device certificate."""
    return f"urn:fleetcore:device:{fleet}:{device}"


def kind_in_words(kind: str) -> str:
    """The name of a record's kind at the start of a sentence: ``Claim batch`` for ``claim_batch``."""
    words = kind.replace("_", " ")
    return (words[:1].upper() + words[1:]).replace(" ca", " CA")
