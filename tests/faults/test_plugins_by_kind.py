"""A plugin of any kind that raises, exits, hangs or gives rubbish, at any moment: one line, and the rest is unharmed."""

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import PluginError
from fleetcore.interfaces.provider import OPEN_TIMEOUT_S
from fleetcore.interfaces.waits import end_tasks
from fleetcore.runtime import app
from fleetcore.runtime.plugins import PluginHost
from fleetcore.runtime.watchdog import Watchdog
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S

#: Kind → its hook and maker.
OFFERED = {
    "storage": ("storages", "storage"),
    "codecs": ("codecs", "codec"),
    "protocols": ("protocols", "protocol"),
    "detectors": ("detectors", "detector"),
    "notifiers": ("notifiers", "notifier"),
    "clouds": ("clouds", "cloud"),
    "services": ("services", "service"),
    "admission": ("admissions", "admission"),
}
HOOKS = {
    **{kind: hook for kind, (hook, _) in OFFERED.items()},
    "calls": "calls",
    "commands": "commands",
    "events": "events",
}
#: Kinds that a server needs where they are configured: it does not start without them.
NEEDED = {"storage", "protocols", "services"}

MISBEHAVIOURS = {
    "raises": 'raise RuntimeError("fell\\n over")',
    "looks like Ctrl-C": "raise KeyboardInterrupt",
    "exits": "raise SystemExit(3)",
    "hangs": "WAIT",
    "gives rubbish": "RUBBISH",
}
#: A thread cannot be ended, so what hangs in one ends by itself after the test has seen it hang.
_HANGS = "import time; time.sleep(1.5)"
_HANGS_OPENING = "from pathlib import Path; Path(__file__).with_name('hangs').touch(); await asyncio.Event().wait()"

_SOURCE = """
import asyncio
from contextlib import asynccontextmanager

from attrs import frozen

import fleetcore
from fleetcore import hookimpl

AT_IMPORT


@frozen
class Config:
    pass


@asynccontextmanager
async def open_bad(*given):
    AT_OPENING
    yield {}


@hookimpl
def fleetcore_HOOK():
    IN_HOOK
    return ANSWER
"""


def source(kind, moment, misbehaviour):
    """A plugin of a kind that misbehaves at a moment; without a moment it is an unfit component that nothing opens."""
    body = MISBEHAVIOURS[misbehaviour]
    offered = kind in OFFERED
    answer = f'[fleetcore.offer_{OFFERED[kind][1]}("bad", Config, open_bad)]' if offered else "[]"
    at = {"AT_IMPORT": "pass", "AT_OPENING": "pass", "IN_HOOK": "pass"}
    where = {"import": "AT_IMPORT", "hook": "IN_HOOK", "opener": "AT_OPENING"}[moment]
    if body == "RUBBISH":
        at[where] = {"import": "import no_such_library", "hook": "return {'bad': 1}", "opener": "pass"}[moment]
    elif body == "WAIT":
        at[where] = _HANGS_OPENING if moment == "opener" else _HANGS
    else:
        at[where] = body
    text = _SOURCE.replace("HOOK():", f"{HOOKS[kind]}():").replace("ANSWER", answer)
    for name, line in at.items():
        text = text.replace(name, line)
    return text


@pytest.fixture
def folder(tmp_path):
    def make(text, sections):
        tmp_path.chmod(0o700)
        (tmp_path / "bad.py").write_text(text)
        top = '[fleet]\nname = "x"\ndata = "."\nplugins = ["./bad.py"]\n'
        (tmp_path / "fleet.toml").write_text(
            f'{top}[protocols.local]\n[detectors.good]\nkind = "threshold"\nabove = 50.0\n{sections}'
        )
        (tmp_path / "fleet.toml").chmod(0o600)
        return tmp_path

    return make


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """One that hangs gets 0.4 s to import and to answer, any other its time; the installed ones may be left out here."""

    def alone(cls, config):
        file = Path(config.file).parent / "bad.py"
        return cls([file], timeout_s=0.4 if _HANGS in file.read_text() else PATIENCE_S)

    monkeypatch.setattr(PluginHost, "of", classmethod(alone))


@asynccontextmanager
async def serving(data):
    """A server by a clock that goes on by the openers' time limit once the bad one hangs and the good ones are open."""
    clock = MovableClock()
    manager = IoTFleetManager(data, create=True, clock=clock)
    ticking = asyncio.create_task(_tick(clock, manager, data / "hangs"))
    try:
        fleet = await manager.open()
        await fleet.serve()
        yield manager, fleet
    finally:
        await end_tasks(ticking)
        await manager.close()


async def _tick(clock, manager, hangs):
    while not hangs.exists() or (
        manager._fleet and any(one.status.state == "starting" for one in _good(manager._fleet.consumers))
    ):
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    await clock.advance(OPEN_TIMEOUT_S + 1)


def _good(consumers):
    return [one for one in consumers if not one.name.endswith("/bad")]


async def works(manager):
    """The rest is unharmed: devices register, readings are stored, and the good detector finds what is to be found."""
    await manager.register_device("d", "sensor")
    await manager.collect_telemetry("d", "heat", 99.0)
    await manager.wait_idle()
    assert [one["detector"] for one in await manager.list_anomalies()] == ["good"]


def one_line(text):
    assert text
    assert "\n" not in text
    return text


CASES = [
    (kind, moment, misbehaviour)
    for kind in HOOKS
    for moment in ("import", "hook", "opener")
    for misbehaviour in MISBEHAVIOURS
    # A service may be anything.
    if (moment != "opener" or kind in OFFERED)
    and (kind, moment, misbehaviour) != ("services", "opener", "gives rubbish")
    # On the event loop it is Ctrl-C.
    and (moment, misbehaviour) != ("opener", "looks like Ctrl-C")
]


@pytest.mark.parametrize(("kind", "moment", "misbehaviour"), CASES, ids=["-".join(case) for case in CASES])
async def test_a_plugin_that_misbehaves_is_named_in_one_line_and_harms_nothing_else(
    folder, until, kind, moment, misbehaviour
):
    configured = {"codecs": "", "storage": '[storage]\nkind = "bad"\n'}.get(kind, f"[{kind}.bad]\n")
    sections = configured if kind in OFFERED else ""
    data = folder(source(kind, moment, misbehaviour), sections)

    if kind in NEEDED:
        with pytest.raises(PluginError) as refused:
            async with serving(data):
                pass
        assert "bad" in one_line(refused.value.message)
        return
    async with serving(data) as (manager, fleet):
        await works(manager)
        await asyncio.to_thread(fleet.host.survey)
        info = fleet.host.plugins["bad"]
        if moment != "opener":
            one_line(info.error)
        elif kind == "codecs":
            assert "Codec 'bad' of plugin 'bad'" in one_line(info.error)
        elif kind == "admission":
            (required,) = fleet.admissions
            await until(lambda: required.error)
            assert "'bad'" in one_line(required.error)
        else:
            state = next(one.status for one in fleet.consumers if one.name.endswith("/bad"))
            await until(lambda: state.error)
            assert "'bad'" in one_line(state.error)
            assert state.state == "failing"
        status = await manager.get_status()
        assert next(one for one in status["plugins"] if one["name"] == "bad")["name"] == "bad"


# --- openers that are wrong in form ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opener", "said"),
    [
        ("async def open_bad(config, context): yield {}", "returned async_generator, not an async context manager"),
        ("async def open_bad(config, context): pass", "returned coroutine, not an async context manager"),
        ("def open_bad(config, context): return None", "returned NoneType, not an async context manager"),
        ("def open_bad(): return None", "raised TypeError"),
        ("@asynccontextmanager\nasync def open_bad(config, context): raise OSError('gone')", "has no yield"),
        ("@asynccontextmanager\nasync def open_bad(config, context): yield {}", "yielded dict, not a Detector"),
        ("@asynccontextmanager\nasync def open_bad(config, context):\n    if False: yield", "raised RuntimeError"),
    ],
)
async def test_an_opener_of_the_wrong_form_is_told_so(folder, until, opener, said):
    text = source("detectors", "import", "raises").replace('raise RuntimeError("fell\\n over")', "pass")
    head, _, tail = text.partition("@asynccontextmanager")
    text = f"{head}{opener}\n\n\n@hookimpl{tail.partition('@hookimpl')[2]}"
    async with serving(folder(text, "[detectors.bad]\n")) as (manager, fleet):
        state = next(one.status for one in fleet.consumers if one.name == "detector/bad")
        await until(lambda: state.error)

        assert "Detector 'bad' of plugin 'bad': its opener " + said in one_line(state.error)
        await works(manager)


# --- at work ---------------------------------------------------------------------------------------------------------

_ADAPTER = """
from contextlib import asynccontextmanager
from attrs import frozen
from fleetcore import hookimpl, offer_protocol
from fleetcore.interfaces.protocol import ProtocolAdapter

@frozen
class Config:
    pass

class Adapter(ProtocolAdapter):
    @property
    def endpoints(self):
        BODY
    @property
    def connections(self):
        BODY
    @property
    def trouble(self):
        BODY
    async def examine(self):
        BODY
    async def drain(self):
        BODY

@asynccontextmanager
async def open_bad(config, context, plane, ingest):
    yield Adapter()

@hookimpl
def fleetcore_protocols():
    return [offer_protocol("bad", Config, open_bad)]
"""


@pytest.mark.parametrize("body", ['raise RuntimeError("no")', "raise SystemExit(3)", "return 7"])
async def test_an_adapter_that_cannot_say_how_it_is_harms_neither_status_nor_stop(folder, body):
    async with serving(folder(_ADAPTER.replace("BODY", body), "[protocols.bad]\n")) as (manager, _fleet):
        await works(manager)

        status = await manager.get_status()

        assert one_line(status["protocols"]["bad"]["trouble"])
        assert status["protocols"]["local"]["trouble"] == ""


_HEEDS_NOTHING = """
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
"""


def _adapter_that_hangs():
    head, _, _ = _ADAPTER.partition("    @property")
    tail = _ADAPTER[_ADAPTER.index("@asynccontextmanager\nasync def") :]
    return (
        f"import asyncio\n{head}    endpoints = ()\n\n    async def drain(self):{_HEEDS_NOTHING}\n{tail}",
        "protocols",
    )


def _opener_that_hangs():
    text = source("detectors", "opener", "hangs")
    return text.replace("await asyncio.Event().wait()", f"\n    if True:{_HEEDS_NOTHING}"), "detectors"


@pytest.mark.parametrize("bad", [_adapter_that_hangs, _opener_that_hangs])
def test_what_hangs_and_does_not_heed_being_cancelled_holds_up_neither_the_stop_nor_the_process(
    folder, monkeypatch, caplog, bad
):
    monkeypatch.setattr(app, "_DRAIN_S", 0.2)
    text, kind = bad()
    data = folder(text, f"[{kind}.bad]\n")

    async def main():
        async with serving(data) as (manager, _fleet):
            await works(manager)

    asyncio.run(main())  # it waits for all tasks that it knows

    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert any("bad" in line and ("did not drain" in line or "is abandoned" in line) for line in said), said


_CODEC = """
from contextlib import asynccontextmanager
from attrs import frozen
from fleetcore import hookimpl, offer_codec
from fleetcore.interfaces.codec import Codec

@frozen
class Config:
    pass

class Bad(Codec):
    media_types = ("application/x-bad",)

    def claims(self, payload):
        BODY

    def decode(self, payload, received):
        BODY

@asynccontextmanager
async def open_bad(config, context):
    yield Bad()

@hookimpl
def fleetcore_codecs():
    return [offer_codec("bad", Config, open_bad)]
"""


@pytest.mark.parametrize("body", ['raise RuntimeError("no")', "raise SystemExit(3)", "return 7"])
async def test_a_codec_that_misbehaves_loses_its_own_messages_alone(folder, body):
    from fleetcore.model.message import Inbound, Rejected
    from fleetcore.wire import messages

    async with serving(folder(_CODEC.replace("BODY", body), "")) as (manager, fleet):
        await manager.register_device("bystander", "sensor")
        session = await fleet.sessions.of("bystander")
        message = Inbound(type=messages.TELEMETRY, subject="bystander", payload=b"x", content_type="application/x-bad")

        outcome = await fleet.ingest.submit(session, message)

        assert isinstance(outcome, Rejected)
        assert outcome.code == "plugin_failed"
        await works(manager)


async def test_an_opener_that_blocks_the_event_loop_is_named_by_the_watchdog(caplog):
    async def block():
        time.sleep(1.0)  # an opener that holds the loop

    watchdog = Watchdog(every_s=0.05, blocked_s=0.2)
    watchdog.start()
    with caplog.at_level(logging.ERROR):
        await asyncio.create_task(block(), name="fleetcore opener of Detector 'slow' of plugin 'slow'")
    watchdog.stop()

    said = [record.getMessage() for record in caplog.records if "blocked" in record.getMessage()]
    # Of a busy machine it may say so too, with no task at fault.
    (line,) = [
        line for line in said if "by the task \"fleetcore opener of Detector 'slow' of plugin 'slow'\", at " in line
    ]
    assert "in block" in line
