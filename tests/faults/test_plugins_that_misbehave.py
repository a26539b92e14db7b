"""Plugins that raise, hang or return rubbish: ingestion and the other plugins go on, and the culprit is named."""

import asyncio
import json
from contextlib import asynccontextmanager

import numpy as np
import pytest

from fleetcore.errors import PluginError, Refused
from fleetcore.interfaces import Detector, Notifier
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.anomaly import Findings
from fleetcore.pipeline.detect import Detection, Scope
from fleetcore.pipeline.notify import Notification
from fleetcore.runtime.clock import SystemClock
from fleetcore.runtime.plugins import PluginHost
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.faults import Stuck
from fleetcore.wire import messages

#: One kind of detector and of notifier, each with one line of body.
_PLUGIN = """\
import sys
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore import hookimpl, offer_detector, offer_notifier
from fleetcore.interfaces import Detector, Notifier


@frozen
class Config:
    pass


class Bad(Detector, Notifier):
    def observe(self, batch, catalog):
        {body}

    async def notify(self, anomalies):
        {body}


@asynccontextmanager
async def open_bad(config, context):
    yield Bad()


@hookimpl
def fleetcore_detectors():
    return [offer_detector("{name}", Config, open_bad)]


@hookimpl
def fleetcore_notifiers():
    return [offer_notifier("{name}", Config, open_bad)]
"""
_RAISES_AT_IMPORT = 'raise RuntimeError("no such sensor library")\n'
_EXITS_AT_IMPORT = "import sys\nsys.exit(3)\n"
_RAISES_IN_THE_HOOK = """\
from fleetcore import hookimpl


@hookimpl
def fleetcore_detectors():
    raise RuntimeError("hook fell over")
"""
_RAISES_IN_ADMISSIONS = _RAISES_IN_THE_HOOK.replace("fleetcore_detectors", "fleetcore_admissions")
_RAISES_IN_COMMANDS = _RAISES_IN_THE_HOOK.replace("fleetcore_detectors", "fleetcore_commands")


def _plugin(name, body):
    return _PLUGIN.format(name=name, body=body)


async def _every_high_reading_is_found(server, at_work, until, limit):
    """What the good detector should find of what was acknowledged, it has found."""
    high = {
        (one.device, one.value(number))
        for one in at_work
        for number in one.acknowledged["timed"]
        if one.value(number) > limit
    }
    assert high

    async def found():
        anomalies = (await server.caller.run("list_anomalies", {"limit": 1000}))["items"]
        return high <= {(one["device"], round(one["observed"])) for one in anomalies if one["detector"] == "too-much"}

    await until(found)


async def test_plugins_that_do_not_load_are_named_and_the_rest_works(serving, senders, until, limit):
    plugins = {"shaky": _RAISES_AT_IMPORT, "leaver": _EXITS_AT_IMPORT, "hooked": _RAISES_IN_THE_HOOK}
    more = '[detectors.shaky]\n[notifiers.by-shaky]\nkind = "shaky"\n'
    async with serving(more, plugins=plugins) as server:
        async with senders(server, ("http", "mqtt")) as at_work:
            await until(lambda: all(one.count > 60 for one in at_work))
        await _every_high_reading_is_found(server, at_work, until, limit)
        assert not any(one.lost or one.refused for one in at_work)

        code, out, _ = await server.command("doctor")

        assert code == 1
        assert "✗ plugin shaky: RuntimeError: no such sensor library\n    → Correct or uninstall it" in out
        assert "✗ plugin leaver: It raised SystemExit: 3" in out
        assert "✗ plugin hooked: RuntimeError: hook fell over" in out
        assert "✗ detector/shaky: failing" in out
        assert "✗ notifier/by-shaky: failing" in out
        assert "✓ detector/too-much" in out


async def test_plugin_list_names_what_did_not_load_and_says_so_by_its_exit_code(command, tmp_path):
    (tmp_path / "shaky.py").write_text(_RAISES_AT_IMPORT)
    (tmp_path / "sound.py").write_text(_plugin("sound", "pass"))

    files = [word for name in ("shaky", "sound") for word in ("--file", str(tmp_path / f"{name}.py"))]
    code, out, _ = await command("plugin", "list", *files, "-o", "json")

    assert code == 7
    errors = {one["name"]: one["error"] for one in json.loads(out)}
    assert errors["shaky"] == "RuntimeError: no such sensor library"
    assert {name for name, error in errors.items() if error} == {"shaky"}


async def test_detectors_and_notifiers_that_raise_are_named_and_the_rest_works(serving, senders, until, limit):
    plugins = {
        "raiser": _plugin("raiser", 'raise ValueError("cannot divide")'),
        "quitter": _plugin("quitter", "sys.exit(3)"),
        "empty": _plugin("empty", "return None"),
    }
    more = "".join(f"[detectors.{name}]\n[notifiers.{name}]\n" for name in plugins) + "[notifiers.log]\n"
    async with serving(more, plugins=plugins) as server:
        async with senders(server, ("http", "mqtt")) as at_work:
            await until(lambda: all(one.count > 60 for one in at_work))
        await _every_high_reading_is_found(server, at_work, until, limit)
        assert not any(one.lost or one.refused for one in at_work)

        async def all_failed():
            consumers = (await server.caller.run("get_status", {}))["consumers"]
            failed = {name for name, one in consumers.items() if one["failures"]}
            return failed == {f"detector/{name}" for name in plugins} | {"notifier/raiser", "notifier/quitter"}

        await until(all_failed)
        code, out, _ = await server.command("doctor")

        assert code == 1
        assert "✗ detector/raiser: failing" in out
        assert "ValueError: cannot divide" in out
        assert "→ Correct its plugin or its section of fleet.toml" in out
        assert "SystemExit" in out
        assert "'empty' returned NoneType, not Findings" in out
        assert "✓ notifier/log" in out
        assert "(detector too-much," in (server.data / "log").read_text()


async def test_an_admission_check_that_cannot_be_asked_lets_nobody_in_and_stops_nothing_else(serving):
    async with serving("[admission.doorman]\n", plugins={"doorman": _RAISES_IN_ADMISSIONS}) as server:
        with pytest.raises(Refused, match="newcomer was not enrolled"):
            await server.device("newcomer")

        assert (await server.caller.run("list_certificates", {"device": "newcomer"}))["items"] == []
        await server.caller.run("collect_telemetry", {"device_id": "newcomer", "metric": "heat", "value": 21.5})
        code, out, _ = await server.command("doctor")
        assert code == 1
        assert "✗ plugin doorman: RuntimeError: hook fell over" in out
        assert "✗ admission doorman: it is not open, so no device can enrol" in out


def test_a_plugin_whose_commands_raise_does_not_take_the_command_line_down(tmp_path):
    (tmp_path / "wordy.py").write_text(_RAISES_IN_COMMANDS)
    host = PluginHost([tmp_path / "wordy.py"])

    names = set(host.commands())

    assert "mqtt" in names
    assert "hook fell over" in host.plugins["wordy"].error


# --- with levers that a file has not: the interface's own limits of time, made short ---


def _columns(index=(0,), score=(1.0,), expected=(1.0,), **more):
    return Findings(index=np.array(index), score=np.array(score), expected=np.array(expected), **more)


def _raise(error):
    raise error


RUBBISH = {
    "nothing": lambda: None,
    "a list of findings": lambda: [_columns()],
    "a score that is not a number": lambda: _columns(score=(np.nan,)),
    "an endless score": lambda: _columns(score=(np.inf,)),
    "a negative score": lambda: _columns(score=(-1.0,)),
    "a reading of another batch": lambda: _columns(index=(10_000,)),
    "a negative position": lambda: _columns(index=(-1,)),
    "columns of two lengths": lambda: _columns(score=(1.0, 2.0)),
    "one reading twice": lambda: _columns(index=(0, 0), score=(1.0, 2.0), expected=(1.0, 1.0)),
    "a position with a fraction": lambda: _columns(index=(0.5,)),
    "no columns": lambda: Findings(index=None, score=None, expected=None),
    "text for a score": lambda: _columns(score=("high",)),
    "a sentence with an unknown blank": lambda: _columns(explanation="{weather} is bad"),
    "an exception": lambda: _raise(KeyError("x")),
    "the end of an iterator": lambda: next(iter(())),
    "an exit": lambda: _raise(SystemExit(3)),
    "what looks like Ctrl-C": lambda: _raise(KeyboardInterrupt()),
    "the end of a generator": lambda: _raise(GeneratorExit()),
    "a hang": Stuck(),
}


class _Scripted(Detector):
    def __init__(self, act):
        self._act = act

    def observe(self, batch, catalog):
        return self._act()


@asynccontextmanager
async def _consuming(consumer):
    await consumer.start()
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        await end_tasks(task)


@pytest.fixture
async def fleet_here(in_process):
    async with in_process() as server:
        await server.manager.register_device("d", "sensor")
        yield server


@pytest.mark.parametrize("act", RUBBISH.values(), ids=RUBBISH)
async def test_rubbish_from_a_detector_is_no_anomaly_and_fails_it_alone(fleet_here, until, act):
    fleet = fleet_here.fleet

    @asynccontextmanager
    async def opener():
        yield _Scripted(act)

    culprit = Detection("culprit", opener, Scope(), fleet.storage, fleet.anomalies, SystemClock(), timeout_s=0.3)
    async with _consuming(culprit):
        await fleet_here.manager.collect_telemetry("d", "heat", 2_000_000)
        await until(lambda: culprit.status.failures)

        assert culprit.status.state == "failing"
        assert culprit.status.error
        await fleet_here.manager.collect_telemetry("d", "heat", 3_000_000)
        await fleet_here.manager.wait_idle()
        found = [(one["detector"], one["observed"]) for one in await fleet_here.manager.list_anomalies("d")]
        assert sorted(found) == [("too-much", 2_000_000), ("too-much", 3_000_000)]


async def test_a_detector_that_recovers_is_shown_what_it_missed(fleet_here, until):
    fleet, acts = fleet_here.fleet, [lambda: _raise(KeyError("x"))]

    @asynccontextmanager
    async def opener():
        yield _Scripted(lambda: acts.pop()() if acts else _columns())
        raise RuntimeError("and it does not close well either")

    culprit = Detection("culprit", opener, Scope(), fleet.storage, fleet.anomalies, SystemClock())
    async with _consuming(culprit):
        await fleet_here.manager.collect_telemetry("d", "heat", 5)
        await until(lambda: culprit.status.failures)

        found = await until(lambda: fleet_here.manager.list_anomalies("d"))

        assert [(one["detector"], one["observed"]) for one in found] == [("culprit", 5)]
        assert culprit.status.state == "running"


async def test_a_state_that_is_no_bytes_is_refused_rather_than_kept(fleet_here):
    class Odd(Detector):
        def observe(self, batch, catalog):
            return Findings.none()

        def snapshot(self):
            return "text"

    @asynccontextmanager
    async def opener():
        yield Odd()

    fleet = fleet_here.fleet
    culprit = Detection("culprit", opener, Scope(), fleet.storage, fleet.anomalies, SystemClock())
    async with _consuming(culprit):
        await fleet_here.manager.collect_telemetry("d", "heat", 5)
        await culprit.catch_up()

        with pytest.raises(PluginError, match="gave str as its state"):
            await culprit.keep()

    assert await fleet.storage.blob("detector/culprit") is None


async def test_a_detector_that_fails_again_and_again_is_asked_ever_more_seldom(fleet_here, until):
    fleet, clock, opened = fleet_here.fleet, MovableClock(), []

    @asynccontextmanager
    async def opener():
        opened.append(clock.monotonic_s())
        yield _Scripted(lambda: _raise(ValueError("poison")))

    culprit = Detection("culprit", opener, Scope(), fleet.storage, fleet.anomalies, clock)
    async with _consuming(culprit):
        await fleet_here.manager.collect_telemetry("d", "heat", 5)
        for failures in range(1, 5):
            await until(lambda many=failures: culprit.status.failures == many)
            await clock.advance((1.0, 2.0, 5.0, 15.0)[failures - 1])

        await until(lambda: len(opened) == 5)

    assert np.diff(opened).tolist() == [1.0, 2.0, 5.0, 15.0]


async def test_a_detector_that_hangs_every_time_is_asked_no_more(fleet_here, until):
    fleet, clock = fleet_here.fleet, MovableClock()

    with Stuck() as hang:

        @asynccontextmanager
        async def opener():
            yield _Scripted(hang)

        culprit = Detection("culprit", opener, Scope(), fleet.storage, fleet.anomalies, clock, timeout_s=0.1)
        async with _consuming(culprit):
            await fleet_here.manager.collect_telemetry("d", "heat", 5)
            for failures in range(1, 4):
                await until(lambda many=failures: culprit.status.failures == many)
                await clock.advance(60.0)

            await until(lambda: culprit.status.state == "stopped")

    assert "3 calls of detector 'culprit' hang" in culprit.status.error
    assert culprit.status.error.endswith("Correct its plugin, and restart the server.")


async def test_a_notifier_that_hangs_is_given_up_and_told_again_and_the_others_are_told(fleet_here, until):
    told, hangs = {"good": [], "bad": []}, asyncio.Event()

    def notifier(name):
        class One(Notifier):
            async def notify(self, anomalies):
                if name == "bad" and not hangs.is_set():
                    await asyncio.Event().wait()
                told[name] += [one.observed for one in anomalies]

        @asynccontextmanager
        async def opener():
            yield One()

        fleet = fleet_here.fleet
        return Notification(name, opener, fleet.storage, fleet.anomalies, SystemClock(), timeout_s=0.2)

    async with _consuming(notifier("bad")) as bad, _consuming(notifier("good")):
        await fleet_here.manager.collect_telemetry("d", "heat", 2_000_000)

        await until(lambda: told["good"] and bad.status.failures)
        assert "did not answer within" in bad.status.error
        assert told == {"good": [2_000_000], "bad": []}
        hangs.set()
        await until(lambda: told["bad"])

    assert told["bad"] == [2_000_000]


_ENDS_EVERYTHING = """
import asyncio
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore import hookimpl, offer_admission, offer_codec, offer_detector, offer_notifier, offer_service
from fleetcore.interfaces import Admission, Codec, Detector, Notifier


class Bad(Detector, Notifier, Admission, Codec):
    media_types = ("text/x-bad",)

    def observe(self, batch, catalog):
        RAISE

    async def notify(self, *given):
        RAISE

    async def decide(self, candidate):
        RAISE

    def claims(self, payload):
        RAISE

    def decode(self, payload, received_ms):
        RAISE


async def fail():
    RAISE


def fall():
    RAISE


@frozen
class Config:
    pass


@asynccontextmanager
async def open_bad(config, context):
    yield Bad()


@asynccontextmanager
async def open_service(config, context, fleet):
    asyncio.get_running_loop().call_later(0.2, fall)
    task = asyncio.create_task(fail())
    yield Bad()


@hookimpl
def fleetcore_detectors():
    return [offer_detector("bad", Config, open_bad)]


@hookimpl
def fleetcore_notifiers():
    return [offer_notifier("bad", Config, open_bad)]


@hookimpl
def fleetcore_admissions():
    return [offer_admission("bad", Config, open_bad)]


@hookimpl
def fleetcore_codecs():
    return [offer_codec("bad", Config, open_bad)]


@hookimpl
def fleetcore_services():
    return [offer_service("bad", Config, open_service)]
"""


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyboardInterrupt", "GeneratorExit"])
async def test_what_would_end_the_process_ends_no_more_than_the_plugin(serving, senders, until, raised):
    plugins = {"bad": _ENDS_EVERYTHING.replace("RAISE", f"raise {raised}")}
    async with serving("[detectors.bad]\n[notifiers.bad]\n[services.bad]\n", plugins=plugins) as server:
        secrets = await server.device("d")
        async with server.client("http", secrets) as device:
            for body in ({"heat": 2_000_000}, b"no format at all"):
                await device.send(messages.TELEMETRY, body)

            async def both_failed():
                consumers = (await server.caller.run("get_status", {}))["consumers"]
                return consumers["detector/bad"]["failures"] and consumers["notifier/bad"]["failures"]

            await until(both_failed)
            assert (await device.send(messages.TELEMETRY, {"heat": 1})).error is None
        assert server.process.returncode is None


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyboardInterrupt", "GeneratorExit"])
async def test_an_admission_that_would_end_the_process_lets_nobody_in(serving, raised):
    plugins = {"bad": _ENDS_EVERYTHING.replace("RAISE", f"raise {raised}")}
    async with serving("[admission.bad]\n", plugins=plugins) as server:
        with pytest.raises(Refused, match="newcomer was not enrolled"):
            await server.device("newcomer")

        assert (await server.command("device", "list"))[0] == 0
        assert server.process.returncode is None
