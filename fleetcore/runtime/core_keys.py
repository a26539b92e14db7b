"""Keys of a plugin's section of fleet.toml that the core itself reads; the plugin gets the rest."""

from collections.abc import Mapping, Sequence

import attrs

from fleetcore.runtime.mirroring import MirrorSection

#: By kind of section; other kinds have none.
CORE_KEYS: Mapping[str, Sequence[str]] = {
    "detectors": ("metrics", "where"),
    "notifiers": ("late",),
    "clouds": tuple(member.name for member in attrs.fields(MirrorSection)),
}
