"""The plugin host: the only code that asks hooks.

It asks plugin by plugin, so that a broken one is named and the others load, and two offers of one name are an error
that names both.
"""

import difflib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy
from attrs import define, field

from fleetcore import PLUGIN_API, hookspecs
from fleetcore.errors import ConfigError, PluginError
from fleetcore.interfaces.provider import Provider

if TYPE_CHECKING:
    from fleetcore.model.events import EventType, EventTypes

_log = logging.getLogger(__name__)

#: Hook → what its offers are, as fleet.toml's section is called.
KINDS = {
    "fleetcore_storages": "storage",
    "fleetcore_codecs": "codecs",
    "fleetcore_protocols": "protocols",
    "fleetcore_detectors": "detectors",
    "fleetcore_notifiers": "notifiers",
    "fleetcore_clouds": "clouds",
    "fleetcore_services": "services",
    "fleetcore_runners": "runners",
    "fleetcore_keystores": "keystores",
}


@define
class PluginInfo:
    """What ``fleetcore plugin list`` shows."""

    name: str
    version: str
    origin: str
    offers: list[str] = field(factory=list)
    error: str = ""


class PluginHost:
    """Loads plugins and collects what they offer.

    Args:
        files: one-file plugins, absolute or relative to the working folder.
        discover: whether installed distributions are asked too.
        collect: whether they are asked for their offers now; the command line's help wants :meth:`commands` alone.
    """

    def __init__(self, files: Iterable[Path] = (), *, discover: bool = True, collect: bool = True) -> None:
        self._collects = collect
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.plugins: dict[str, PluginInfo] = {}
        self._offers: dict[str, dict[str, tuple[str, Provider[Any]]]] = {kind: {} for kind in KINDS.values()}
        self._load("builtin", "built in", "", lambda: importlib.import_module("fleetcore.builtin.plugin"))
        if discover:
            for entry in sorted(entry_points(group=hookspecs.PROJECT), key=lambda one: one.name):
                version = entry.dist.version if entry.dist else ""
                self._load(entry.name, "installed", version, _importer(entry))
        for path in files:
            self._load(path.stem, str(path), "", partial(_load_file, path))

    def _load(self, name: str, origin: str, version: str, load: Callable[[], ModuleType]) -> None:
        if name in self.plugins:
            raise ConfigError(
                f"Two plugins are called {name!r}: {self.plugins[name].origin} and {origin}",
                remedy="Rename one of them",
            )
        info = self.plugins[name] = PluginInfo(name, version, origin)
        try:
            module = load()
            api = getattr(module, "FLEETCORE_PLUGIN_API", PLUGIN_API)
            if api != PLUGIN_API:
                raise PluginError(
                    f"It is written for plugin API {api}, this fleetcore has {PLUGIN_API}",
                    remedy="Install versions that belong together",
                )
            self._manager.register(module, name)
            self._manager.check_pending()
            if self._collects:
                self._collect(name, info)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            info.error = f"{type(error).__name__}: {error}"
            _log.warning("Plugin %s failed to load and is left out: %s", name, info.error)
            for offers in self._offers.values():
                for offered in [key for key, (owner, _) in offers.items() if owner == name]:
                    del offers[offered]
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)

    def _collect(self, name: str, info: PluginInfo) -> None:
        for hook, kind in KINDS.items():
            for provider in self._ask(name, hook):
                if not isinstance(provider, Provider):
                    raise PluginError(f"{hook} gave {type(provider).__name__}, not an offer made by fleetcore.offer()")
                other = self._offers[kind].get(provider.name)
                if other is not None:
                    raise ConfigError(
                        f"Plugins {other[0]!r} and {name!r} both offer {kind} {provider.name!r}",
                        remedy="Uninstall one of them",
                    )
                self._offers[kind][provider.name] = (name, provider)
                info.offers.append(f"{kind}.{provider.name}")

    def _ask(self, name: str, hook: str) -> Iterator[Any]:
        plugin = self._manager.get_plugin(name)
        others = [one for one in self._manager.get_plugins() if one is not plugin]
        for answer in self._manager.subset_hook_caller(hook, others)():
            yield from answer

    def offers(self, kind: str) -> dict[str, Provider[Any]]:
        """The offers of a kind by name."""
        return {name: provider for name, (_, provider) in self._offers[kind].items()}

    def find(self, kind: str, name: str, *, file: str = "", line: int = 0) -> Provider[Any]:
        """One offer.

        Raises:
            ConfigError: nobody offers it; names what there is and what to install.
            PluginError: nobody does, and a plugin that might have failed to load.
        """
        found = self._offers[kind].get(name)
        if found is not None:
            return found[1]
        there = ", ".join(sorted(self._offers[kind])) or "none"
        broken = [f"{one.name} ({one.error})" for one in self.plugins.values() if one.error]
        if broken:
            place = f"{file}:{line}: " if file else ""
            raise PluginError(
                f"{place}No plugin offers {kind} {name!r}, and these failed to load: {'; '.join(broken)}",
                remedy="Correct or uninstall them, or correct the name",
            )
        near = difflib.get_close_matches(name, self._offers[kind], 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        remedy = f"{hint}There is: {there}. Install fleetcore-{name}, or correct the name"
        raise ConfigError(f"No plugin offers {kind} {name!r}", file=file, line=line, remedy=remedy)

    def admissions(self) -> list[Callable[..., str | None]]:
        """Every enrolment check."""
        checks: list[Callable[..., str | None]] = []
        for name in self._alive():
            try:
                checks += self._ask(name, "fleetcore_admissions")
            except (Exception, SystemExit) as error:
                self.failed(name, "fleetcore_admissions", error)
                # Fails closed: what it would have refused nobody knows.
                checks.append(partial(_no_admission, name))
        return checks

    def events(self) -> "EventTypes":
        """The core's event types and the plugins'; a plugin that declares what it may not is named, and has none."""
        from fleetcore.model.events import (
            EventTypes,
            check_plugin_type,
        )  # numpy stands behind it: not for a command's help

        declared: dict[str, list[EventType]] = {}
        for name in self._alive():
            try:
                types = list(self._ask(name, "fleetcore_events"))
                for event_type in types:
                    check_plugin_type(name, event_type)
            except (Exception, SystemExit) as error:
                self.failed(name, "fleetcore_events", error)
            else:
                declared[name] = types
        return EventTypes(declared)

    def calls(self) -> dict[str, list[Any]]:
        """The functions that plugins declare as calls, by plugin; they are judged where they become calls."""
        found: dict[str, list[Any]] = {}
        for name in self._alive():
            try:
                found[name] = list(self._ask(name, "fleetcore_calls"))
            except (Exception, SystemExit) as error:
                self.failed(name, "fleetcore_calls", error)
        return {name: functions for name, functions in found.items() if functions}

    def commands(self) -> list[Any]:
        """Every click command that plugins add."""
        found: list[Any] = []
        for name in self._alive():
            try:
                found += self._ask(name, "fleetcore_commands")
            except (Exception, SystemExit) as error:
                self.failed(name, "fleetcore_commands", error)
        return found

    def failed(self, name: str, hook: str, error: BaseException) -> None:
        """Names a plugin whose answer to a hook is of no use; it is asked no more."""
        info = self.plugins[name]
        info.error = f"{hook} raised {type(error).__name__}: {error}"
        _log.warning("Plugin %s: %s", name, info.error)

    def _alive(self) -> list[str]:
        return [name for name, info in self.plugins.items() if not info.error]


def _no_admission(plugin: str, _device: object, _parameters: object) -> str:
    return f"the admission checks of plugin {plugin} cannot be asked"


def _importer(entry: EntryPoint) -> Callable[[], ModuleType]:
    def load() -> ModuleType:
        module = entry.load()
        assert isinstance(module, ModuleType), f"{entry.value} is no module"
        return module

    return load


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"There is no plugin file {path}", remedy="Correct [fleet] plugins")
    if path.suffix != ".py":
        raise ConfigError(f"{path} is no Python file", remedy="A one-file plugin is called NAME.py")
    name = f"fleetcore_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
