"""Keys of a section that the core takes before its plugin sees the rest."""

from collections.abc import Mapping, Sequence

import attrs

from fleetcore.runtime.mirroring import MirrorSection

#: By kind of section; none where it is not named.
CORE_KEYS: Mapping[str, Sequence[str]] = {
    "detectors": ("metrics", "where"),
    "clouds": tuple(member.name for member in attrs.fields(MirrorSection)),
}
