"""The plugin host: the only code that imports plugins and calls their hooks.

Each plugin runs in its own thread with a time limit, so that one that raises, hangs or returns nonsense is named and
the others load.
"""

import difflib
import importlib
import importlib.util
import inspect
import logging
import queue
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import attrs
import pluggy
from attrs import define, field

from fleetcore import PLUGIN_API, hookspecs, threads
from fleetcore.errors import ConfigError, FleetError, PluginError
from fleetcore.interfaces.boundary import as_error, contained, in_a_line
from fleetcore.interfaces.provider import OPEN_TIMEOUT_S, Kind, Provider

if TYPE_CHECKING:
    import click

    from fleetcore.model.events import EventType, EventTypes
    from fleetcore.runtime.config import Config

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: Hook → the kind of its offers, as its section in fleet.toml is called.
KINDS: Mapping[str, Kind] = {
    "fleetcore_storages": "storage",
    "fleetcore_codecs": "codecs",
    "fleetcore_protocols": "protocols",
    "fleetcore_detectors": "detectors",
    "fleetcore_notifiers": "notifiers",
    "fleetcore_clouds": "clouds",
    "fleetcore_services": "services",
    "fleetcore_admissions": "admission",
}
_HOOKS = frozenset({*KINDS, "fleetcore_events", "fleetcore_calls", "fleetcore_commands"})
#: Hooks of plugin API 1 that had neither an interface nor a contract.
_WITHDRAWN = frozenset({"fleetcore_runners", "fleetcore_keystores"})
#: The page for authors whose plugin is for another plugin API.
API_PAGE = "docs/how-to/plugin-api-2.md"
#: A hook that yields without end is not read forever.
_MAX_ANSWERS = 1000
#: The built-in plugin.
BUILTIN = "builtin"


@define
class PluginInfo:
    """The description of a plugin in ``fleetcore plugin list``.

    Attributes:
        state: ``loaded``, even if a part of it failed; ``failed``: it offers nothing; ``disabled`` by
            ``[fleet] disable``; ``unknown``: that names a plugin that does not exist.
        offers: ``detectors.jumps``, ``calls.weather_rain``, ``events.x.weather.rain``, ``commands.mqtt``.
        error, remedy: the failure and its remedy, or empty.
        warnings: unused parts of it, a sentence each.
    """

    name: str
    version: str
    origin: str
    state: Literal["loaded", "failed", "disabled", "unknown"] = "loaded"
    offers: list[str] = field(factory=list)
    error: str = ""
    remedy: str = ""
    warnings: list[str] = field(factory=list)


class PluginHost:
    """Loads plugins and collects their offers.

    Args:
        files: one-file plugins, absolute or relative to the working folder. Raises ConfigError if one is missing.
        discover: whether installed distributions are searched too.
        collect: whether their offers are collected now; the help of the command line only needs :meth:`commands`.
        disable: plugins that are not even imported.
        timeout_s: how long a plugin may take to import, and to answer a hook.
    """

    def __init__(
        self,
        files: Iterable[Path] = (),
        *,
        discover: bool = True,
        collect: bool = True,
        disable: Collection[str] = (),
        timeout_s: float = OPEN_TIMEOUT_S,
    ) -> None:
        self._collects, self._disabled, self._timeout_s = collect, disable, timeout_s
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.plugins: dict[str, PluginInfo] = {}
        #: The plugin and its offer, by kind, then by the offer's name and by ``plugin:name``.
        self._offers: dict[str, dict[str, tuple[str, Provider[Any]]]] = {kind: {} for kind in get_args(Kind)}
        self._load(BUILTIN, "built in", "", lambda: importlib.import_module("fleetcore.builtin.plugin"))
        if discover:
            for entry, version in _installed():
                self._load(entry.name, "installed", version, _importer(entry))
        for path in files:
            _check_file(path)
            self._load(path.stem, str(path), "", partial(_load_file, path))
        self._check_disabled()

    @classmethod
    def of(cls, config: "Config") -> "PluginHost":
        """The host of a fleet: installed and one-file plugins, without the disabled ones."""
        base = Path(config.file).parent if config.file else Path()
        fleet = config.fleet
        files = [base / path for path in fleet.plugins]
        return cls(files, disable=fleet.disable, timeout_s=fleet.open_timeout_s)

    # --- loading -------------------------------------------------------------------------------------------------

    def _load(self, name: str, origin: str, version: str, load: Callable[[], ModuleType]) -> None:
        info = PluginInfo(name, version, origin)
        if name in self.plugins:
            self.plugins[f"{name} ({origin})"] = info
            other = f"Another plugin is called {name!r}: {self.plugins[name].origin}"
            self._fail(info, other, "Rename one of them, or uninstall one")
            return
        self.plugins[name] = info
        if name in self._disabled and name != BUILTIN:
            info.state = "disabled"
            return
        try:
            module = self._within(name, load)
            self._check_api(module)
            self._manager.register(module, name)
            info.warnings += _unused(module)
            if self._collects:
                self._collect(name, info)
        except BaseException as error:
            self._fail(info, *_reason(_alone(error)))
            for offers in self._offers.values():
                for offered in [key for key, (owner, _) in offers.items() if owner == name]:
                    del offers[offered]
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
        for warning in info.warnings:
            _log.warning("Plugin %s: %s", name, warning)

    def _fail(self, info: PluginInfo, error: str, remedy: str = "") -> None:
        info.state, info.error, info.offers = "failed", error, []
        info.remedy = remedy or f'Correct or uninstall it; [fleet] disable = ["{info.name}"] leaves it out'
        _log.warning("Plugin %s failed to load and is left out: %s", info.name, error)

    def _check_disabled(self) -> None:
        there = {name for name, info in self.plugins.items() if info.state == "disabled"}
        for name in self._disabled:
            if name in there:
                continue
            if name == BUILTIN:
                warning = "It is part of fleetcore and cannot be disabled"
                self.plugins[BUILTIN].warnings.append(warning)
            else:
                near = difflib.get_close_matches(name, [plugin for plugin in self.plugins if plugin != BUILTIN], 1)
                hint = f". Did you mean {near[0]!r}?" if near else ""
                warning = f"[fleet] disable names a plugin that does not exist{hint}"
                self.plugins[name] = PluginInfo(name, "", "[fleet] disable", "unknown", warnings=[warning])
            _log.warning("Plugin %s: %s", name, warning)

    @staticmethod
    def _check_api(module: ModuleType) -> None:
        api = getattr(module, "FLEETCORE_PLUGIN_API", PLUGIN_API)
        if api != PLUGIN_API:
            raise PluginError(
                f"It is for plugin API {api}, and this fleetcore has {PLUGIN_API}",
                remedy=f"Install a newer release of it; for its author, {API_PAGE} lists the changes",
            )

    def _collect(self, name: str, info: PluginInfo) -> None:
        for provider in self._within(name, lambda: [item for hook in KINDS for item in self._offered(name, hook)]):
            kind, offers = provider.kind, self._offers[provider.kind]
            whole = f"{name}:{provider.name}"
            if whole in offers:
                raise PluginError(f"It offers {kind} {provider.name!r} twice")
            offers[whole] = (name, provider)
            info.offers.append(f"{kind}.{provider.name}")
            if provider.name in offers:
                first = offers[provider.name][0]
                info.error = "; ".join(
                    filter(None, [info.error, f"{kind} {provider.name!r} is also offered by plugin {first!r}"])
                )
                info.remedy = f'Write kind = "{whole}" to use it, or [fleet] disable = ["{name}"] to leave it out'
                _log.warning("Plugin %s: %s, which has it. %s", name, info.error, info.remedy)
            else:
                offers[provider.name] = (name, provider)

    def _offered(self, name: str, hook: str) -> list[Provider[Any]]:
        found = self._ask(name, hook)
        for provider in found:
            if not isinstance(provider, Provider):
                raise PluginError(f"{hook} returned {type(provider).__name__}, not an offer")
            if provider.kind != KINDS[hook]:
                raise PluginError(f"{hook} returned an offer of {provider.kind}: {provider.name!r}")
            if not (inspect.isclass(provider.config_class) and attrs.has(provider.config_class)):
                raise PluginError(f"The config of {provider.kind} {provider.name!r} is not an attrs class")
        return found

    # --- calling hooks --------------------------------------------------------------------------------------------

    def _implements(self, name: str, hook: str) -> bool:
        plugin = self._manager.get_plugin(name)
        return any(item.plugin is plugin for item in getattr(self._manager.hook, hook).get_hookimpls())

    def _ask(self, name: str, hook: str) -> list[Any]:
        """All answers of a plugin to a hook; called within :meth:`_within`."""
        plugin = self._manager.get_plugin(name)
        found: list[Any] = []
        for item in getattr(self._manager.hook, hook).get_hookimpls():
            if item.plugin is not plugin:
                continue
            answer: object = item.function()
            if inspect.iscoroutine(answer):
                answer.close()
                raise PluginError(f"{hook} is a coroutine; hooks must be plain functions")
            if not isinstance(answer, Iterable) or isinstance(answer, str | bytes | Mapping):
                raise PluginError(f"{hook} returned {type(answer).__name__}, not a list")
            found += islice(answer, _MAX_ANSWERS + 1)
            if len(found) > _MAX_ANSWERS:
                raise PluginError(f"{hook} returned more than {_MAX_ANSWERS} answers")
        return found

    def _within(self, name: str, work: Callable[[], T]) -> T:
        """The result of a plugin's code, within ``timeout_s``; raises its errors, or PluginError.

        A thread cannot be ended: hanging code keeps its thread, and the process ends without it.
        """
        if name == BUILTIN:
            return work()
        answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            # A thread that a plugin starts here is not a daemon, although this one is.
            thread._daemonic = False  # type: ignore[attr-defined]  # the setter is for threads that have not started
            try:
                answers.put((work(), None))
            except BaseException as error:  # reported to the waiting thread
                answers.put((None, error))

        thread = threading.Thread(target=run, name=f"plugin {name}", daemon=True)
        threads.start(thread, threads.PLUGIN_EXIT_S)
        try:
            result, error = answers.get(timeout=self._timeout_s)
        except queue.Empty:
            place = threads.place_of(thread)
            raise PluginError(f"It did not answer within {self._timeout_s:g} s; it is at {place}") from None
        if error is not None:
            raise as_error(error, "It")
        return result  # type: ignore[return-value]  # None only where T allows it

    def _answers(self, hook: str) -> "Iterable[tuple[str, list[Any]]]":
        """The answer of each loaded plugin to a hook; one that fails is named."""
        for name, info in list(self.plugins.items()):
            if info.state != "loaded":
                continue
            if not self._implements(name, hook):
                yield name, []
                continue
            try:
                found = self._within(name, partial(self._ask, name, hook))
            except BaseException as error:
                self.failed(name, hook, _alone(error))
            else:
                yield name, found

    # --- using the host -------------------------------------------------------------------------------------------

    def offers(self, kind: str) -> dict[str, Provider[Any]]:
        """The offers of a kind by the name that selects them; if the name is taken, by ``plugin:name``."""
        offers = self._offers[kind]
        return {
            name: provider
            for name, (owner, provider) in offers.items()
            if ":" not in name or offers[provider.name][0] != owner
        }

    def plugin_of(self, kind: str, name: str) -> str:
        """The plugin of an offer; empty if no plugin offers it."""
        return self._offers[kind][name][0] if name in self._offers[kind] else ""

    def find(
        self,
        kind: str,
        name: str,
        *,
        file: str = "",
        line: int = 0,
        section: str = "",
        keys: Collection[str] = (),
    ) -> Provider[Any]:
        """One offer, by its name or by ``plugin:name``.

        Args:
            section: the header of a section that has no ``kind``, for the hint.
            keys: the keys of that section, from which its kind is guessed.

        Raises:
            ConfigError: no plugin offers it; names the existing ones and what to install.
            PluginError: no plugin offers it, and one that might has failed to load.
        """
        found = self._offers[kind].get(name)
        if found is not None:
            return found[1]
        there = sorted(self.offers(kind))
        broken = [f"{plugin.name} ({plugin.error})" for plugin in self.plugins.values() if plugin.state == "failed"]
        left_out = [plugin.name for plugin in self.plugins.values() if plugin.state == "disabled"]
        without = f"; [fleet] disable leaves out {', '.join(left_out)}" if left_out else ""
        if broken:
            place = f"{file}:{line}: " if file else ""
            raise PluginError(
                f"{place}No plugin offers {kind} {name!r}, and these failed to load: {'; '.join(broken)}{without}",
                remedy="Correct or uninstall them, or correct the name",
            )
        near = difflib.get_close_matches(name, there, 1)
        guess = self._guess(kind, keys) if section else ""
        if section and there and (guess or not near):
            kinds = ", ".join(f'kind = "{item}"' for item in there)
            raise ConfigError(
                f"{section} has no kind, and no plugin offers {kind} {name!r}{without}",
                file=file,
                line=line,
                remedy=f'Add kind = "{guess}" to the section. Available: {", ".join(there)}'
                if guess
                else f"Add its kind to the section: {kinds}; or install fleetcore-{name}",
            )
        hint = f"Did you mean {near[0]!r}? " if near else ""
        remedy = f"{hint}Available: {', '.join(there) or 'none'}. Install fleetcore-{name}, or correct the name"
        raise ConfigError(f"No plugin offers {kind} {name!r}{without}", file=file, line=line, remedy=remedy)

    def _guess(self, kind: str, keys: Collection[str]) -> str:
        """The kind that has all the keys of a section; empty if none has, or the section is empty."""
        for name, provider in sorted(self.offers(kind).items()):
            if keys and set(keys) <= set(attrs.fields_dict(provider.config_class)):
                return name
        return ""

    def events(self) -> "EventTypes":
        """The event types of the core and the plugins; a plugin with an invalid type is named, and has none."""
        from fleetcore.model.events import (
            EventTypes,
            check_plugin_type,
        )  # imports numpy: not for a command's help

        declared: dict[str, list[EventType]] = {}
        for name, types in self._answers("fleetcore_events"):
            try:
                for event_type in types:
                    check_plugin_type(name, event_type)
            except FleetError as error:
                self.failed(name, "fleetcore_events", error)
            else:
                declared[name] = types
                self.note(name, [f"events.{event_type.name}" for event_type in types])
        return EventTypes(declared)

    def calls(self) -> dict[str, list[Any]]:
        """The functions that plugins declare as calls, by plugin; they are checked when they become calls."""
        return {name: functions for name, functions in self._answers("fleetcore_calls") if functions}

    def commands(self, taken: Collection[str] = ()) -> "dict[str, click.Command]":
        """The nouns that plugins add to the command line; ``taken`` are the command line's own."""
        import click

        nouns: dict[str, click.Command] = {}
        for name, commands in self._answers("fleetcore_commands"):
            try:
                own = {str(item.name): item for item in map(_command, commands)}
                if clash := sorted(own.keys() & {*taken, *nouns}):
                    raise PluginError(f"the noun {clash[0]!r} is taken")
            except FleetError as error:
                self.failed(name, "fleetcore_commands", error)
            else:
                nouns |= own
                self.note(name, [f"commands.{noun}" for noun in own])
        return nouns

    def survey(self, taken: Collection[str] = ()) -> None:
        """Calls the hooks that are otherwise called when needed, so that a list of plugins is complete.

        Args:
            taken: nouns of the command line that plugins may not use.
        """
        self.events()
        self.commands(taken)

    def note(self, name: str, offers: Iterable[str]) -> None:
        """Records what a plugin adds."""
        known = self.plugins[name].offers
        known += [offer for offer in offers if offer not in known]

    def failed(self, name: str, hook: str, error: BaseException) -> None:
        """Names a plugin whose answer to a hook is invalid; its other offers stay."""
        info = self.plugins[name]
        said = f"{hook}: {error}" if isinstance(error, FleetError) else f"{hook} raised {in_a_line(error)}"
        if said in info.error:
            return
        info.error = "; ".join(filter(None, [info.error, said]))
        info.remedy = info.remedy or f'Correct or uninstall it; [fleet] disable = ["{name}"] leaves it out'
        _log.warning("Plugin %s: %s", name, said)


def _alone(error: BaseException) -> BaseException:
    """An ``exit()`` unchanged, for its message; anything else through :func:`contained`."""
    return error if isinstance(error, SystemExit) else contained(error, "It")


def _reason(error: BaseException) -> tuple[str, str]:
    """The reason why a plugin did not load, and the remedy."""
    if isinstance(error, FleetError):
        return error.message, error.remedy
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] == hookspecs.PROJECT:
        said = f"It is for another plugin API than {PLUGIN_API}: {in_a_line(error)}"
        return said, f"Install a newer release of it; for its author, {API_PAGE} lists the changes"
    return in_a_line(error), ""


def _unused(module: ModuleType) -> list[str]:
    """Functions of a module that look like hooks but are not called."""
    found = []
    for name, value in vars(module).items():
        if not inspect.isfunction(value):
            continue
        marked: Mapping[str, Any] | None = getattr(value, f"{hookspecs.PROJECT}_impl", None)
        hook = str((marked or {}).get("specname") or name)
        if hook in _WITHDRAWN and (marked is not None or name == hook):
            found.append(f"{hook} is not called: it has no interface yet, and will be a hook once it has one")
        elif marked is not None and hook not in _HOOKS:
            near = difflib.get_close_matches(hook, _HOOKS, 1)
            found.append(f"Hook {hook} does not exist" + (f". Did you mean {near[0]}?" if near else ""))
        elif marked is None and name.startswith("fleetcore_"):
            near = difflib.get_close_matches(name, _HOOKS, 1)
            hint = f", and call it {near[0]}" if near and near[0] != name else ""
            found.append(f"{name} is not called: mark a hook with @fleetcore.hookimpl{hint}")
    return found


def _command(given: Any) -> "click.Command":
    import click

    if not isinstance(given, click.Command) or not given.name:
        raise PluginError(f"it returned {type(given).__name__}, not a click command with a name")
    return given


def _installed() -> Sequence[tuple[EntryPoint, str]]:
    """The entry points of the installed plugins, by name, and the versions of their distributions."""
    return _entry_points(tuple((path, _changed(path)) for path in sys.path))


def _changed(folder: str) -> int:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1)
def _entry_points(_folders: tuple[tuple[str, int], ...]) -> Sequence[tuple[EntryPoint, str]]:
    """Reads the metadata of every installed distribution; again once something was installed or removed."""
    found = sorted(entry_points(group=hookspecs.PROJECT), key=lambda entry_point: entry_point.name)
    return [(entry, entry.dist.version if entry.dist else "") for entry in found]


def _importer(entry: EntryPoint) -> Callable[[], ModuleType]:
    def load() -> ModuleType:
        module = entry.load()
        if not isinstance(module, ModuleType):
            raise PluginError(f"Its entry point {entry.value} is not a module")
        return module

    return load


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"Plugin file {path} does not exist", remedy="Correct [fleet] plugins")
    if path.suffix != ".py":
        raise ConfigError(f"{path} is not a Python file", remedy="A one-file plugin must be called NAME.py")


def _load_file(path: Path) -> ModuleType:
    name = f"fleetcore_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
