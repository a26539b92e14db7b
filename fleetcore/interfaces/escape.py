"""Names in the fleet as names at a hub, and back: a reversible escape without collisions.

A character that the hub does not allow is written as a mark and two hexadecimal digits for each of its UTF-8 bytes; the
mark itself is always escaped. Each name at the hub stands for at most one name in the fleet, and no other spelling is
accepted.
"""

import re

from attrs import frozen


@frozen(kw_only=True)
class Escape:
    """One alphabet.

    Attributes:
        plain: the characters that stay, as a regular expression's character class.
        mark: the character that begins an escape; the hub allows it, and ``plain`` does not contain it.
        longest: the hub's limit, in characters.
    """

    plain: str
    mark: str
    longest: int

    def encode(self, text: str, prefix: str = "") -> str | None:
        """The name at the hub; None where it would be empty or too long."""
        escaped = re.sub(f"[^{self.plain}]", self._hexadecimal, text)
        return prefix + escaped if text and len(prefix) + len(escaped) <= self.longest else None

    def decode(self, name: str, prefix: str = "") -> str | None:
        """The fleet's name; None for a name that :meth:`encode` does not give."""
        if not name.startswith(prefix):
            return None
        parts = re.split(f"((?:{re.escape(self.mark)}[0-9A-F]{{2}})+)", name[len(prefix) :])
        try:
            text = "".join(
                bytes.fromhex(part.replace(self.mark, "")).decode() if number % 2 else part
                for number, part in enumerate(parts)
            )
        except UnicodeDecodeError:
            return None
        return text if self.encode(text, prefix) == name else None

    def _hexadecimal(self, found: re.Match[str]) -> str:
        # A lone surrogate cannot be sent to a hub; it becomes bytes that decode() does not accept.
        return "".join(f"{self.mark}{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))
