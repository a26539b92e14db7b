"""The functions that come with the plugin: what they do, against numpy, and that each is built from its source."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from array import array
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from fleetcore_edge.runner.records import Batch, EdgeAlert, Function, FunctionRefused, FunctionStopped, Resources

from fleetcore.testing.patience import PATIENCE_S

HERE = Path(__file__).parents[2]
FUNCTIONS = HERE / "functions"
ASC = HERE.parents[1] / "build" / "node_modules" / ".bin" / "asc"
BEGIN = 1_700_000_000_000


def built_in(name, config=None, **more):
    file = FUNCTIONS / f"{name}.wasm"
    return Function(
        name=name,
        version="1",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        module=file,
        config=json.dumps(config or {}).encode(),
        resources=Resources(cpu_percent=1000.0, time_ms=2000, fuel=10**10),
        **more,
    )


def batch_of(index, time, value, names=3):
    return Batch(
        series=[(f"d{number}", "temperature", "°C") for number in range(names)],
        at=array("I", np.asarray(index, dtype=np.uint32).tobytes()),
        time=array("q", np.asarray(time, dtype=np.int64).tobytes()),
        value=array("d", np.asarray(value, dtype=np.float64).tobytes()),
    )


def walk(count, seed, names=3):
    chance = np.random.default_rng(seed)
    times = BEGIN + np.cumsum(chance.integers(0, 2000, count))
    return chance.integers(0, names, count), times, np.cumsum(chance.normal(0, 0.3, count))


def parts(index, time, value, size):
    for begin in range(0, len(index), size):
        yield batch_of(*(column[begin : begin + size] for column in (index, time, value)))


def column(outputs, name):
    return [value for output in outputs for value in getattr(output.readings, name)]


def deadband_of(index, time, value, deadband, interval):
    """What goes on: the places of the readings."""
    last, kept = {}, []
    for place, (each, now, x) in enumerate(zip(index, time, value, strict=True)):
        before = last.get(each)
        if before is None or abs(x - before[1]) > deadband or (interval and now - before[0] >= interval):
            last[each] = (now, x)
            kept.append(place)
    return kept


@pytest.mark.parametrize(("deadband", "interval"), [(0.5, 0), (0.5, 20_000), (0, 0), (1e6, 0), (2.5, 1)])
async def test_deadband_lets_through_what_differs_or_is_due(runner, deadband, interval):
    index, time, value = walk(5_000, 1)
    kept = deadband_of(index, time, value, deadband, interval)
    await runner.load(built_in("deadband", {"deadband": deadband, "max_interval_ms": interval}))

    outputs = [await runner.run("deadband", part) for part in parts(index, time, value, 333)]

    assert column(outputs, "value") == value[kept].tolist()
    assert column(outputs, "time") == time[kept].tolist()
    assert column(outputs, "at") == index[kept].tolist()


async def test_deadband_knows_a_series_also_where_the_next_batch_names_others_before_it(runner):
    await runner.load(built_in("deadband", {"deadband": 1}))
    first = batch_of([0, 1], [BEGIN, BEGIN], [10.0, 20.0], names=2)
    await runner.run("deadband", first)
    names = [("d9", "temperature", "°C"), first.series[1], first.series[0]]

    output = await runner.run("deadband", evolve(batch_of([1, 2, 0], [BEGIN + 1] * 3, [20.5, 10.5, 1.0]), series=names))

    assert (output.readings.at.tolist(), list(output.readings.series)) == ([0], names)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ('{"deadband": 5}', False),
        ('{"deadband":5e0,"x":1}', False),
        ('{"deadband" :\n 0.5E1}', False),
        ('{"x": {"deadband": 9}, "deadband": 50e-1}', False),
        ('{"x": "deadband\\": 9", "deadband": 5.0}', False),
        ('{"x": ["deadband", 9]}', True),
        ('{"deadband": "9"}', True),
        ("{}", True),
    ],
)
async def test_the_header_finds_a_number_in_the_configuration(runner, text, passes):
    await runner.load(evolve(built_in("deadband"), config=text.encode()))

    output = await runner.run("deadband", batch_of([0, 0, 0], [BEGIN] * 3, [0.0, 4.9, 5.1]))

    assert output.readings.value.tolist() == ([0.0, 4.9, 5.1] if passes else [0.0, 5.1])


async def test_a_configuration_that_is_refused_says_why(runner):
    with pytest.raises(FunctionRefused, match="deadband and max_interval_ms must not be negative") as caught:
        await runner.load(built_in("deadband", {"deadband": -1}))
    assert caught.value.code == "config_refused"

    with pytest.raises(FunctionRefused, match="power of two"):
        await runner.load(built_in("vibration", {"window": 100}))


async def test_a_batch_that_a_function_has_no_room_for_is_stopped(runner):
    count = 60_000
    await runner.load(built_in("deadband"))

    with pytest.raises(FunctionStopped) as caught:
        await runner.run("deadband", batch_of(np.zeros(count), BEGIN + np.arange(count), np.zeros(count)))

    assert caught.value.code == "out_of_memory"


def features(samples, rate, bands):
    """The oracle: numpy's real Fourier transform, scaled to the variance."""
    samples = samples - samples.mean()
    window = np.hanning(len(samples) + 1)[:-1]
    power = np.abs(np.fft.rfft(samples * window)) ** 2 / (len(samples) * (window**2).sum())
    power[1:-1] *= 2
    rms, lines = np.sqrt((samples**2).mean()), len(power) - 1
    edges = [1 + band * lines // bands for band in range(bands + 1)]
    found = {"rms": rms, "peak": np.abs(samples).max(), "crest": np.abs(samples).max() / rms}
    found["dominant"] = (1 + power[1:].argmax()) * rate / len(samples)
    for band in range(bands):
        found[f"band{band + 1}"] = power[edges[band] : edges[band + 1]].sum()
    return found


@pytest.mark.parametrize(("size", "bands"), [(16, 1), (256, 4), (1024, 3), (8192, 16)])
async def test_vibration_features_are_those_of_numpy(runner, size, bands):
    rate = 2_000.0
    chance = np.random.default_rng(size)
    at = np.arange(3 * size + 5) / rate
    signals = [
        9.81 + np.sin(2 * np.pi * 120 * at) + 0.3 * np.sin(2 * np.pi * 650 * at) + chance.normal(0, 0.2, len(at)),
        chance.normal(0, 1, len(at)),
    ]
    time = BEGIN + (1000 * at).astype(np.int64)
    await runner.load(built_in("vibration", {"rate_hz": rate, "window": size, "bands": bands}))
    index, value = np.tile([0, 1], len(at)), np.stack(signals, axis=1).ravel()
    found = {}
    for part in parts(index, np.repeat(time, 2), value, 1_000):
        output = await runner.run("vibration", part)
        for each, when, x in zip(output.readings.at, output.readings.time, output.readings.value, strict=True):
            device, metric, unit = output.readings.series[each]
            found[device, when, metric] = (x, unit)

    for number, signal in enumerate(signals):
        for window in range(3):
            part = slice(window * size, (window + 1) * size)
            for name, expected in features(signal[part], rate, bands).items():
                x, unit = found.pop((f"d{number}", time[part][-1], f"temperature.{name}"))
                assert x == pytest.approx(expected, rel=1e-9, abs=1e-12), name
                assert unit == {"rms": "°C", "peak": "°C", "dominant": "Hz"}.get(name, "")
    assert found == {}


async def test_a_vibration_window_begins_anew_after_a_gap(runner):
    await runner.load(built_in("vibration", {"window": 16, "gap_ms": 50}))
    time = BEGIN + np.concatenate([10 * np.arange(10), 1000 + 10 * np.arange(16)])

    output = await runner.run("vibration", batch_of(np.zeros(26), time, np.arange(26) % 2))

    assert set(output.readings.time) == {int(time[-1])}
    assert dict(zip((name[1] for name in output.readings.series), output.readings.value, strict=True))[
        "temperature.dominant"
    ] == pytest.approx(50.0)


@pytest.mark.parametrize(("config", "limit"), [({"above": 80}, 80), ({"above": -5}, -5), ({"above": 0}, 0)])
async def test_threshold_alerts_once_until_it_is_below_again(runner, config, limit):
    await runner.load(built_in("threshold", config, may=frozenset({"alerts"})))
    value = [limit + change for change in (-1, 0, 1, 2, -1, 3, 1)]
    first = batch_of([0, 0, 0, 1, 0, 0, 0], BEGIN + np.arange(7), value)

    alerts = [*(await runner.run("threshold", first)).alerts, *(await runner.run("threshold", first)).alerts]

    def alert(device, place):
        return EdgeAlert(
            device, "temperature", "warning", "above_limit", "The value is above its limit", value[place], BEGIN + place
        )

    assert alerts == [alert("d0", 2), alert("d1", 3), alert("d0", 5), alert("d0", 2), alert("d0", 5)]


async def test_smoothing_is_the_weighted_mean(runner):
    index, time, value = walk(2_000, 3)
    await runner.load(built_in("smoothing", {"time_constant_ms": 30_000}))
    outputs = [await runner.run("smoothing", part) for part in parts(index, time, value, 300)]
    mean, last, expected = {}, {}, []
    for each, now, x in zip(index, time, value, strict=True):
        weight = 1 - np.exp(-(now - last[each]) / 30_000) if each in last else 1
        mean[each] = mean.get(each, 0) + weight * (x - mean.get(each, 0))
        last[each] = now
        expected.append(mean[each])

    found = column(outputs, "value")

    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("deadband", marks=pytest.mark.peer("clang-14", "wasm-ld-14")),
        pytest.param("vibration", marks=pytest.mark.peer("/usr/bin/rustc", "wasm-ld-14")),
        "threshold",
        pytest.param("smoothing", marks=pytest.mark.peer("node", str(ASC))),
    ],
)
def test_a_module_is_what_its_source_gives_wherever_that_lies(tmp_path, name):
    for folder in ("functions", "sdk"):
        shutil.copytree(HERE / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.wasm"))

    done = subprocess.run(
        ["sh", str(tmp_path / "functions" / "build.sh"), str(tmp_path), name],
        env={**os.environ, "PYTHON": sys.executable, "ASC": str(ASC)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    built, checked_in = (tmp_path / f"{name}.wasm").read_bytes(), (FUNCTIONS / f"{name}.wasm").read_bytes()
    assert hashlib.sha256(built).hexdigest() == hashlib.sha256(checked_in).hexdigest()


async def doubled(runner, folder, command):
    """Builds what an SDK shows, with the command that it names, and runs it."""
    subprocess.run(shlex.split(command), cwd=folder, check=True, timeout=PATIENCE_S)
    content = (folder / "function.wasm").read_bytes()
    await runner.load(
        evolve(built_in("deadband"), module=folder / "function.wasm", sha256=hashlib.sha256(content).hexdigest())
    )
    return (await runner.run("deadband", batch_of([0, 1], [BEGIN, BEGIN + 1], [1.5, -2.0], names=2))).readings


@pytest.mark.peer("clang-14", "wasm-ld-14")
async def test_the_example_in_the_header_for_c_runs(runner, tmp_path):
    header = HERE / "sdk" / "c" / "fleetcore_function.h"
    comment = re.search(r"^/\*.*?\*/", header.read_text(), re.DOTALL)[0]
    lines = [line.removeprefix(" *").removeprefix(" ") for line in comment.splitlines()]
    (command,) = [line for line in lines if line.startswith("clang ")]
    code = "\n".join(line[2:] for line in lines if line.startswith("  "))
    shutil.copy(header, tmp_path)
    (tmp_path / "function.c").write_text(code)

    readings = await doubled(runner, tmp_path, command.replace("clang ", "clang-14 -fuse-ld=/usr/bin/wasm-ld-14 "))

    assert readings.value.tolist() == [3.0, -4.0]


@pytest.mark.peer("/usr/bin/rustc", "wasm-ld-14")
async def test_the_example_in_the_module_for_rust_runs(runner, tmp_path):
    source = HERE / "sdk" / "rust" / "fleetcore_function.rs"
    lines = [
        line.removeprefix("//!").removeprefix(" ") for line in source.read_text().splitlines() if line[:3] == "//!"
    ]
    (command,) = [line.strip("`") for line in lines if line.startswith("`rustc ")]
    code = re.search(r"^```ignore\n(.*?)^```", "\n".join(lines), re.MULTILINE | re.DOTALL)[1]
    shutil.copy(source, tmp_path)
    (tmp_path / "function.rs").write_text(code)

    readings = await doubled(
        runner, tmp_path, command.replace("rustc ", "/usr/bin/rustc -C linker=/usr/bin/wasm-ld-14 ")
    )

    assert readings.value.tolist() == [3.0, -4.0]
    assert list(readings.series) == [("d0", "temperature", "°C"), ("d1", "temperature", "°C")]
