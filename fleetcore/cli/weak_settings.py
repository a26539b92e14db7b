"""Settings that work but are weaker than necessary: ``doctor`` warns of them."""

import contextlib
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from fleetcore.runtime.config import Config

#: A stolen key is valid until its certificate expires or is revoked.
_LONG_DAYS = 200
#: A larger network is more than a handful of trusted proxies.
_MAX_PROXIES = 256


@frozen
class Weakness:
    """A weak setting, and its remedy."""

    detail: str
    remedy: str


def weaknesses(config: "Config", pki: Path) -> Iterator[Weakness]:
    """All weak settings of a configuration."""
    for kind, instances in (("protocols", config.protocols), ("services", config.services)):
        for instance in instances:
            place = f"[{kind}.{instance.name}]"
            for key in ("listen", "url"):
                address = str(instance.table.get(key, ""))
                if address.startswith(("http://", "mqtt://")):
                    yield Weakness(
                        f"{place} {key} = {address!r} is in clear text: every process on this machine can read it",
                        f"Use {address.split(':', maxsplit=1)[0]}s://",
                    )
            proxies = instance.table.get("trusted_proxies", ())
            for proxy in proxies if isinstance(proxies, list | tuple) else ():
                with contextlib.suppress(ValueError):
                    if ip_network(str(proxy)).num_addresses > _MAX_PROXIES:
                        yield Weakness(
                            f"{place} trusts the Client-Cert header of every machine in {proxy}",
                            "Name the proxies themselves: any of these machines can act as any device",
                        )
    if config.ca.device_days > _LONG_DAYS:
        yield Weakness(
            f"[ca] device_days = {config.ca.device_days}: a stolen key is valid for long", "Devices renew by themselves"
        )
    if config.firmware.allow_unsigned:
        yield Weakness("[firmware] allow_unsigned = true: the server alone decides what devices run", "Sign releases")
    root = pki / "root.key"
    if root.is_file() and b"ENCRYPTED" not in root.read_bytes():
        yield Weakness(
            "the root's key is unencrypted beside the server, which does not need it",
            "fleetcore ca take-offline FILE; or create a folder with [ca] passphrase",
        )
