"""Counters of plugins: one number per plugin component and name since the server started, limited in names."""

import logging
import re
import threading
from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)

#: The most names of one component: names made from device ids must fill neither the memory nor a monitoring system.
MAX_NAMES = 64
#: The name that counts everything beyond them.
OTHER = "_other"
_NAME = re.compile(r"[a-z0-9_]{1,64}", re.ASCII)


class Counts:
    """Counters by plugin component (``protocols.mqtt``) and name."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}
        # Detectors count in other threads.
        self._lock = threading.Lock()

    def of(self, component: str) -> Callable[[str], None]:
        """The ``context.count`` of a plugin component."""
        names = self._counts.setdefault(component, {})

        def count(name: str) -> None:
            fits = type(name) is str and _NAME.fullmatch(name) is not None and name != OTHER
            with self._lock:
                if not fits or (name not in names and len(names) - (OTHER in names) >= MAX_NAMES):
                    if OTHER not in names:
                        _log.warning(
                            "%s counts %r, which is not a valid name or one of more than %d: it is counted as %s "
                            "from now on",
                            component, name, MAX_NAMES, OTHER,
                        )  # fmt: skip
                    name = OTHER
                names[name] = names.get(name, 0) + 1

        return count

    def snapshot(self) -> Mapping[str, Mapping[str, int]]:
        """All counters that are not 0."""
        with self._lock:
            return {
                component: dict(sorted(names.items())) for component, names in sorted(self._counts.items()) if names
            }
