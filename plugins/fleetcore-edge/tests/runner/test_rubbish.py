"""Whatever a function puts out: it is right, or the batch is stopped with the reason, and nothing of it goes on."""

import struct

import pytest
from fleetcore_edge.runner import abi
from fleetcore_edge.runner.records import EdgeAlert, EdgeCommand, FunctionRefused, FunctionStopped

#: Where the blocks of these functions lie, and how large the memory is.
AT, MEMORY = 65_536, 4 * 65_536
NOW = 1_700_000_000_000


def texts(*given):
    """Texts one after the other, and offset and length of each."""
    content, places = b"", []
    for text in given:
        encoded = text if isinstance(text, bytes) else text.encode()
        places.append((1000 + len(content), len(encoded)))
        content += encoded
    return content, places


def block(
    series=0, series_at=64, readings=0, columns=(0, 0, 0), alerts=0, alerts_at=0, commands=0, commands_at=0, version=1
):
    return abi.HEADER.pack(version, series, series_at, readings, *columns, alerts, alerts_at, commands, commands_at)


def one_reading(index=0, time=NOW, value=1.5, names=("d1", "speed", "m/s")):
    content, places = texts(*names)
    table = abi.SERIES_ENTRY.pack(0, *(number for place in places for number in place))
    columns = struct.pack("<Iqd", index, time, value)
    head = block(1, 64, 1, (200, 204, 212))
    return (head + table).ljust(200, b"\0") + columns.ljust(800, b"\0") + content


def one_alert(severity=1, value=3.0, time=NOW, names=("d1", "speed", "fast", "too fast")):
    content, places = texts(*names)
    table = abi.ALERT_ENTRY.pack(*(number for place in places for number in place), severity, value, time)
    return (block(alerts=1, alerts_at=64) + table).ljust(1000, b"\0") + content


def one_command(names=("d1", "stop", "{}")):
    content, places = texts(*names)
    table = abi.COMMAND_ENTRY.pack(*(number for place in places for number in place))
    return (block(commands=1, commands_at=64) + table).ljust(1000, b"\0") + content


def literal(content):
    return "".join(f"\\{byte:02x}" for byte in content)


@pytest.fixture
async def answers(runner, make, wat, readings):
    """What the runner makes of a function's answer: its address and length, and what lies there."""

    async def run(content=b"", at=AT, size=None, may=("readings", "alerts", "commands")):
        size = len(content) if size is None else size
        data = f'(data (i32.const {AT}) "{literal(content)}")'
        packed = (size << 32 | at) - (1 << 64 if size >> 31 else 0)
        await runner.load(make("odd", more=data, run=wat("", f"(i64.const {packed})"), may=frozenset(may)))
        return await runner.run("odd", readings())

    return run


async def test_what_is_right_goes_on(answers):
    output = await answers(one_reading())
    assert list(output.readings.series) == [("d1", "speed", "m/s")]
    assert (output.readings.at[0], output.readings.time[0], output.readings.value[0]) == (0, NOW, 1.5)

    output = await answers(one_alert())
    assert output.alerts == [EdgeAlert("d1", "speed", "warning", "fast", "too fast", 3.0, NOW)]

    output = await answers(one_command())
    assert output.commands == [EdgeCommand("d1", "stop", "{}")]


WRONG = {
    "outside": {"at": MEMORY, "size": 64},
    "at the end": {"at": MEMORY - 63, "size": 64},
    "beyond 4 GiB": {"at": 0xFFFFFFF0, "size": 0x7FFFFFFF},
    "too short": {"size": 63},
    "another version": {"content": block(version=2)},
    "a column outside": {"content": block(series=1, readings=1, columns=(0, MEMORY, 0))},
    "a column that ends outside": {"content": block(series=1, readings=20_000, columns=(0, 0, MEMORY - AT - 8))},
    "a table outside": {"content": block(series=1, series_at=MEMORY)},
    "an unknown series": {"content": one_reading(index=1)},
    "no series": {"content": block(readings=1, columns=(100, 100, 100)).ljust(200, b"\0")},
    "a time before 1970": {"content": one_reading(time=-1)},
    "a time after 9999": {"content": one_reading(time=1 << 60)},
    "a value that is NaN": {"content": one_reading(value=float("nan"))},
    "an infinite value": {"content": one_reading(value=float("-inf"))},
    "a metric that is not UTF-8": {"content": one_reading(names=("d1", b"\xff\xfe", ""))},
    "an empty metric": {"content": one_reading(names=("d1", "", ""))},
    "an unknown severity": {"content": one_alert(severity=3)},
    "an alert of NaN": {"content": one_alert(value=float("nan"))},
    "an alert before 1970": {"content": one_alert(time=-5)},
    "an alert without a kind": {"content": one_alert(names=("d1", "speed", "", "x"))},
    "a message that is not UTF-8": {"content": one_alert(names=("d1", "speed", "fast", b"\xc3\x28"))},
    "a command without a name": {"content": one_command(("d1", "", "{}"))},
    "arguments that are not JSON": {"content": one_command(("d1", "stop", "{"))},
    "arguments nested too deep": {"content": one_command(("d1", "stop", "[" * 4000))},
}
TOO_LARGE = {
    "readings": {"content": block(series=1, readings=100_001)},
    "series": {"content": block(series=65_537)},
    "alerts": {"content": block(alerts=257)},
    "commands": {"content": block(commands=65)},
    "a long metric": {"content": one_reading(names=("d1", "x" * 257, ""))},
    "a long message": {"content": one_alert(names=("d1", "speed", "fast", "x" * 1025))},
    "long arguments": {"content": one_command(("d1", "stop", '"' + "x" * 4095 + '"'))},
}


@pytest.mark.parametrize(
    ("code", "given"),
    [("rubbish", each) for each in WRONG.values()] + [("output_too_large", each) for each in TOO_LARGE.values()],
    ids=[*WRONG, *TOO_LARGE],
)
async def test_what_is_wrong_is_stopped(runner, make, readings, answers, code, given):
    await runner.load(make("fine"))
    pid = runner.pid

    with pytest.raises(FunctionStopped) as caught:
        await answers(**given)

    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    assert runner.pid == pid
    assert (await runner.run("fine", readings())).readings == readings()


async def test_texts_are_bounded_together(opened, make, wat, readings):
    runner = await opened(output_bytes=64)
    data = f'(data (i32.const {AT}) "{literal(one_alert(names=("d1", "speed", "fast", "x" * 100)))}")'
    await runner.load(make("odd", more=data, run=wat("", f"(i64.const {2000 << 32 | AT})"), may=frozenset({"alerts"})))

    with pytest.raises(FunctionStopped) as caught:
        await runner.run("odd", readings())

    assert caught.value.code == "output_too_large"


async def test_what_a_function_may_not_put_out_is_dropped_and_counted(runner, answers):
    assert (await answers(one_reading(), may=())).dropped == {"readings": 1}
    assert (await answers(one_alert(), may=("readings",))).dropped == {"alerts": 1}
    output = await answers(one_command(), may=("readings",))

    assert (output.commands, output.dropped) == ((), {"commands": 1})
    assert runner.usage()["odd"].dropped == 1


@pytest.mark.parametrize(("at", "code"), [(0, "out_of_memory"), (MEMORY - 8, "rubbish"), (1025, "rubbish")])
async def test_a_place_for_the_batch_that_is_none(runner, make, readings, at, code):
    await runner.load(make("odd", alloc=f'(func (export "fc_alloc") (param i32) (result i32) (i32.const {at}))'))

    with pytest.raises(FunctionStopped) as caught:
        await runner.run("odd", readings())

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("parts", "code", "named"),
    [
        ({"imports": '(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))'}, "import_unknown", "wasi_snapshot_preview1.fd_write"),
        ({"imports": '(import "env" "log" (func (param i32 i32)))'}, "import_unknown", "env.log"),
        ({"imports": '(import "fleetcore" "open" (func))'}, "import_unknown", "fleetcore.open"),
        ({"imports": '(import "fleetcore" "log" (func (param i64)))'}, "import_unknown", "fleetcore.log"),
        ({"imports": '(import "fleetcore" "log" (memory 1))', "memory": '(export "memory" (memory 0))'}, "import_unknown", "fleetcore.log"),
        ({"memory": "(memory 1)"}, "export_missing", "memory"),
        ({"abi": ""}, "export_missing", "fc_abi"),
        ({"run": '(func (export "fc_run") (param i32 i32) (result i32) (i32.const 0))'}, "export_missing", "fc_run"),
        ({"configure": '(func (export "fc_configure"))'}, "export_missing", "fc_configure"),
        ({"abi": '(func (export "fc_abi") (result i32) (i32.const 2))'}, "abi_unsupported", "version 2"),
        ({"configure": '(func (export "fc_configure") (param i32 i32) (result i32) (i32.const 7))'}, "config_refused", "7"),
    ],
)  # fmt: skip
async def test_a_module_that_does_not_keep_to_the_abi_is_refused_by_name(runner, make, parts, code, named):
    with pytest.raises(FunctionRefused) as caught:
        await runner.load(make("odd", **parts))

    assert caught.value.code == code
    assert named in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"hello", b"(module)", b"\0asm\x01\0\0\0\xff", b"\0asm\x0d\0\x01\0"])
async def test_a_file_that_is_no_module_is_refused(runner, make, content):
    with pytest.raises(FunctionRefused) as caught:
        await runner.load(make("odd", content=content))

    assert caught.value.code in {"module_invalid", "export_missing"}


async def test_another_file_than_the_named_one_is_refused(runner, make):
    function = make()
    function.module.write_bytes(function.module.read_bytes() + b"\0\1\0")

    with pytest.raises(FunctionRefused) as caught:
        await runner.load(function)

    assert caught.value.code == "hash_mismatch"


async def test_a_module_that_is_gone_is_refused_and_after_a_restart_its_batches_are_stopped(runner, make, readings):
    function = make()
    await runner.load(function)
    function.module.unlink()

    with pytest.raises(FunctionRefused) as caught:
        await runner.load(function)
    assert caught.value.code == "module_missing"

    runner._link._lose("it has ended")
    with pytest.raises(FunctionStopped) as stopped:
        await runner.run("echo", readings())
    assert stopped.value.code == "module_missing"
