"""The plugin host: what clashes, is disabled, is not marked or is of another API is named, and the rest is there."""

import json
import textwrap

import pytest

from fleetcore.errors import ConfigError, PluginError
from fleetcore.runtime.config import load
from fleetcore.runtime.plugins import PluginHost

_DETECTOR = """
from contextlib import asynccontextmanager
from attrs import frozen
from fleetcore import hookimpl, offer_detector


@frozen
class Config:
    limit: float = 1.0


@asynccontextmanager
async def open_it(config, context):
    yield None


@hookimpl
def fleetcore_detectors():
    return [offer_detector(name, Config, open_it) for name in {names!r}]
"""


def detector(*names):
    return _DETECTOR.format(names=names)


@pytest.fixture
def host(tmp_path):
    """A host of one-file plugins, ``host(name=source)``, without the installed ones."""

    def make(disable=(), timeout_s=30.0, **plugins):
        for name, source in plugins.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        files = [tmp_path / f"{name}.py" for name in plugins]
        return PluginHost(files, discover=False, disable=disable, timeout_s=timeout_s)

    return make


# --- clashes ---------------------------------------------------------------------------------------------------------


def test_of_two_offers_of_one_name_the_later_is_named_and_all_else_is_there(host):
    made = host(first=detector("freezing"), second=detector("freezing", "boiling"))

    assert made.plugin_of("detectors", "freezing") == "first"
    assert made.plugin_of("detectors", "boiling") == "second"
    second = made.plugins["second"]
    assert second.error == "detectors 'freezing' is also offered by plugin 'first'"
    assert second.remedy == 'Write kind = "second:freezing" to use it, or [fleet] disable = ["second"] to leave it out'
    assert made.find("detectors", "second:freezing") is not made.find("detectors", "freezing")
    assert made.find("detectors", "first:freezing") is made.find("detectors", "freezing")
    assert {"freezing", "boiling", "second:freezing"} <= set(made.offers("detectors"))


def test_an_offer_that_clashes_with_a_built_in_one_can_be_chosen(host):
    made = host(mine=detector("threshold"))

    assert made.plugin_of("detectors", "threshold") == "builtin"
    assert made.plugin_of("detectors", "mine:threshold") == "mine"


def test_of_two_plugins_of_one_name_the_later_is_named_and_left_out(tmp_path, host):
    (tmp_path / "other").mkdir()
    for folder, names in ((tmp_path, "freezing"), (tmp_path / "other", "boiling")):
        (folder / "weather.py").write_text(detector(names))

    made = PluginHost([tmp_path / "weather.py", tmp_path / "other" / "weather.py"], discover=False)

    assert {"freezing"} == set(made.offers("detectors")) - {"threshold", "statistical", "silence"}
    failed = [one for one in made.plugins.values() if one.error]
    assert [(one.name, one.state) for one in failed] == [("weather", "failed")]
    assert failed[0].error == f"Another plugin is called 'weather': {tmp_path / 'weather.py'}"


def test_two_plugins_with_one_noun_or_one_of_the_core_are_named(host):
    noun = """
        import click
        from fleetcore import hookimpl

        @hookimpl
        def fleetcore_commands():
            return [click.Command("{}")]
    """
    made = host(a=noun.format("rain"), b=noun.format("rain"), c=noun.format("device"), d=noun.format("snow"))

    assert set(made.commands({"device"})) == {"rain", "snow"}
    assert {name for name, one in made.plugins.items() if one.error} == {"b", "c"}
    assert made.plugins["c"].error == "fleetcore_commands: the noun 'device' is taken"


# --- disabling -------------------------------------------------------------------------------------------------------


def test_a_disabled_plugin_is_not_even_imported(host, tmp_path):
    trace = tmp_path / "imported"
    made = host(["loud"], loud=f"open({str(trace)!r}, 'w')\n" + detector("freezing"), calm=detector("boiling"))

    assert not trace.exists()
    assert made.plugins["loud"].state == "disabled"
    with pytest.raises(ConfigError, match=r"offers detectors 'freezing'; \[fleet\] disable leaves out loud"):
        made.find("detectors", "freezing")


def test_a_disabled_plugin_that_is_not_there_is_told_with_the_nearest(host):
    made = host(["wether", "builtin"], weather=detector("freezing"))

    assert made.plugins["wether"].state == "unknown"
    assert made.plugins["wether"].warnings == [
        "[fleet] disable names a plugin that does not exist. Did you mean 'weather'?"
    ]
    assert made.plugins["builtin"].warnings == ["It is part of fleetcore and cannot be disabled"]
    assert "threshold" in made.offers("detectors")


def test_a_fleet_toml_disables_and_gives_the_time_limit(tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(2)\n")
    file = tmp_path / "fleet.toml"
    file.write_text('[fleet]\nplugins = ["./slow.py"]\nopen_timeout_s = 0.2\n')

    assert "did not answer within 0.2 s; it is at " in PluginHost.of(load(file, {})).plugins["slow"].error
    file.write_text('[fleet]\nplugins = ["./slow.py"]\ndisable = ["slow"]\n')
    assert PluginHost.of(load(file, {})).plugins["slow"].state == "disabled"


# --- hooks that are not asked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "warning"),
    [
        (
            "def fleetcore_detectors(): return []",
            "fleetcore_detectors is not called: mark a hook with @fleetcore.hookimpl",
        ),
        (
            "def fleetcore_detector(): return []",
            "fleetcore_detector is not called: mark a hook with @fleetcore.hookimpl, and call it fleetcore_detectors",
        ),
        (
            "from fleetcore import hookimpl\n@hookimpl\ndef fleetcore_detektors(): return []",
            "Hook fleetcore_detektors does not exist. Did you mean fleetcore_detectors?",
        ),
        (
            "from fleetcore import hookimpl\n@hookimpl\ndef fleetcore_runners(): return []",
            "fleetcore_runners is not called: it has no interface yet, and will be a hook once it has one",
        ),
        (
            "def fleetcore_keystores(): return []",
            "fleetcore_keystores is not called: it has no interface yet, and will be a hook once it has one",
        ),
    ],
)
def test_what_looks_like_a_hook_and_is_not_asked_is_told(host, source, warning):
    made = host(odd=source)

    assert (made.plugins["odd"].state, made.plugins["odd"].warnings) == ("loaded", [warning])


# --- the plugin API --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    ["FLEETCORE_PLUGIN_API = 1\n", "from fleetcore import hookimpl, offer\nFLEETCORE_PLUGIN_API = 1\n"],
)
def test_a_plugin_of_the_first_plugin_api_gets_a_line_with_the_page(host, source):
    info = host(old=source).plugins["old"]

    assert info.state == "failed"
    assert "plugin API" in info.error
    assert "docs/how-to/plugin-api-2.md" in info.remedy


# --- sections without a kind -----------------------------------------------------------------------------------------


def test_a_section_without_a_kind_is_told_the_kind_that_takes_its_keys(host):
    with pytest.raises(ConfigError) as refused:
        host().find("detectors", "hot", file="fleet.toml", line=3, section="[detectors.hot]", keys={"above"})

    assert refused.value.message == "fleet.toml:3: [detectors.hot] has no kind, and no plugin offers detectors 'hot'"
    assert refused.value.remedy.startswith('Add kind = "threshold" to the section.')


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path, capfd):
    from fleetcore.cli.root import run

    def ask(toml, *words, **plugins):
        data = tmp_path / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        for name, source in plugins.items():
            (data / f"{name}.py").write_text(textwrap.dedent(source))
        (data / "fleet.toml").write_text(toml)
        code = run(["plugin", "list", "--data", str(data), "-o", "json", *words])
        return code, {one["name"]: one for one in json.loads(capfd.readouterr().out)}

    return ask


def test_plugin_list_shows_all_that_the_fleets_own_file_loads(listed):
    source = """
        import click
        from contextlib import asynccontextmanager
        from attrs import frozen
        from fleetcore import hookimpl, offer_admission
        from fleetcore.model.events import EventType, Subject
        from fleetcore.model.operator import Permission
        from fleetcore.calls.caller import Caller
        from fleetcore.calls.table import call, ANYWHERE

        @frozen
        class Config:
            pass

        @asynccontextmanager
        async def open_guests(config, context):
            yield None

        @call("GET /x/all/one", Permission.SERVER_READ, scope=ANYWHERE, cli="all one")
        async def all_one(caller: Caller) -> None:
            '''Does nothing.'''

        @hookimpl
        def fleetcore_admissions():
            return [offer_admission("guests", Config, open_guests)]

        @hookimpl
        def fleetcore_calls():
            return [all_one]

        @hookimpl
        def fleetcore_commands():
            return [click.Command("sing")]

        @hookimpl
        def fleetcore_events():
            return [EventType(name="x.all.done", subject=Subject.OBJECT, permission=None, meaning="It is done.")]
    """
    code, plugins = listed(
        '[fleet]\nplugins = ["./all.py", "./off.py"]\ndisable = ["off"]\n', all=source, off="raise RuntimeError"
    )

    assert plugins["all"]["error"] == ""
    assert sorted(plugins["all"]["offers"]) == [
        "admission.guests",
        "calls.all_one",
        "commands.sing",
        "events.x.all.done",
    ]
    assert plugins["off"]["state"] == "disabled"
    assert code == 0


def test_plugin_list_says_what_failed_and_what_to_do(listed):
    code, plugins = listed('[fleet]\nplugins = ["./bad.py"]\n', bad="1 / 0")

    assert (code, plugins["bad"]["error"]) == (7, "ZeroDivisionError: division by zero")
    assert plugins["bad"]["remedy"] == 'Correct or uninstall it; [fleet] disable = ["bad"] leaves it out'


def test_a_command_of_a_plugin_that_raises_fails_in_one_line(capfd):
    import click

    from fleetcore.cli import root

    @click.command("sing")
    def sing():
        raise RuntimeError("out of\ntune")

    guarded = root._guarded("sing", sing)
    with pytest.raises(PluginError, match="The command `fleetcore sing` of a plugin raised RuntimeError: out of tune"):
        guarded.main([], standalone_mode=False)
