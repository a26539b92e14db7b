"""Compiling is limited, and what comes of it is kept, and not believed."""

import asyncio
import os
import time

import pytest
from fleetcore_edge.runner.records import FunctionRefused
from fleetcore_edge.runner.runner import open_runner

from fleetcore.errors import ConfigError, Unavailable


def huge(branches, count):
    """A function whose compilation takes longer than in proportion to its size: branches that each change a variable.

    5,000 branches and 500 variables, 84 KB, take 3 s and 200 MiB; 20,000 and 1,000, 338 KB, take 36 s and 1 GiB.
    """
    body = " ".join(
        f"(if (i32.wrap_i64 (local.get {number % count})) (then (local.set {number * 7 % count} "
        f"(i64.add (local.get {number * 13 % count}) (local.get {number * 31 % count})))))"
        for number in range(branches)
    )
    total = " ".join(f"(local.set 0 (i64.xor (local.get 0) (local.get {number})))" for number in range(count))
    variables = " ".join(["i64"] * count)
    again = "(br_if $again (i32.wrap_i64 (local.get 1)))"
    return f'(func (export "h") (result i64) (local {variables}) (loop $again {body} {again}) {total} (local.get 0))'


async def test_a_module_that_takes_long_to_compile_is_refused(opened, tmp_path, make, readings):
    runner = await opened(tmp_path / "code", compile_s=1, compile_mib=4096)
    await runner.load(make("fine"))
    slow = make("slow", more=huge(20_000, 1_000))
    loading = asyncio.create_task(runner.load(slow))
    begun = time.monotonic()

    while not loading.done():
        assert (await runner.run("fine", readings())).readings == readings()
        await asyncio.sleep(0.01)

    with pytest.raises(FunctionRefused) as caught:
        await loading
    assert (caught.value.code, bool(caught.value.remedy)) == ("compile_limit", True)
    assert time.monotonic() - begun < 10
    assert runner.restarts == 0


async def test_a_module_that_takes_much_memory_to_compile_is_refused(opened, tmp_path, make, readings):
    runner = await opened(tmp_path / "code", compile_mib=32)

    with pytest.raises(FunctionRefused) as caught:
        await runner.load(make("slow", more=huge(5_000, 500)))

    assert caught.value.code == "compile_limit"


async def test_a_module_that_is_too_large_is_refused_before_it_is_compiled(opened, tmp_path, make):
    runner = await opened(tmp_path / "code", module_bytes=1000)

    with pytest.raises(FunctionRefused) as caught:
        await runner.load(make(more=f'(data (i32.const 8) "{"x" * 1000}")'))

    assert caught.value.code == "module_too_large"
    assert runner._modules.compiled == 0


async def test_what_was_compiled_is_kept_for_this_user_alone(opened, tmp_path, make, readings):
    folder = tmp_path / "code"
    folder.mkdir(mode=0o755)
    runner = await opened(folder)
    await runner.load(make())
    assert runner._modules.compiled == 2  # the runner's own, and the function
    second = await opened(folder)

    await second.load(make())

    assert (await second.run("echo", readings())).readings == readings()
    assert second._modules.compiled == 0
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("change", ["first", "last", "cut", "another key", "exchanged"])
async def test_a_file_that_was_changed_is_compiled_anew_and_never_run(opened, tmp_path, make, readings, change):
    folder = tmp_path / "code"
    runner = await opened(folder)
    await runner.load(make())
    files = sorted(folder.glob("*.code"))
    contents = [file.read_bytes() for file in files]
    for file, content, other in zip(files, contents, reversed(contents), strict=True):
        changed = {
            "first": bytes([content[0] ^ 1]) + content[1:],
            "last": content[:-1] + bytes([content[-1] ^ 1]),
            "cut": content[:20],
            "another key": content,
            "exchanged": other,
        }
        file.write_bytes(changed[change])
    if change == "another key":
        (folder / "key").write_bytes(os.urandom(32))
    second = await opened(folder)

    await second.load(make())

    assert (await second.run("echo", readings())).readings == readings()
    assert (second._modules.compiled, second._modules.damaged) == (2, 2)
    assert sorted(file.name for file in folder.glob("*.code")) == [file.name for file in files]


async def test_a_module_compiled_by_another_engine_is_compiled_anew(opened, tmp_path, make, monkeypatch):
    runner = await opened(tmp_path / "code")
    await runner.load(make())
    monkeypatch.setattr("fleetcore_edge.runner.modules.engine", lambda: "wasmtime 51")
    second = await opened(tmp_path / "code")

    await second.load(make())

    assert second._modules.compiled == 2


async def test_the_oldest_files_go(opened, tmp_path, make, monkeypatch):
    monkeypatch.setattr("fleetcore_edge.runner.modules._MOST_FILES", 2)
    runner = await opened(tmp_path / "code")

    for number in range(3):
        await runner.load(make(more=f"(global i32 (i32.const {number}))"))

    assert len(list((tmp_path / "code").glob("*.code"))) == 2


async def test_a_machine_that_starts_no_more_processes_is_a_temporary_state(opened, tmp_path, make, monkeypatch):
    runner = await opened(tmp_path / "code")

    async def refused(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("asyncio.create_subprocess_exec", refused)
    with pytest.raises(Unavailable, match="Resource temporarily unavailable"):
        await runner.load(make())
    monkeypatch.undo()

    await runner.load(make())


async def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "code").write_text("")

    with pytest.raises(ConfigError, match="File exists"):
        async with open_runner(tmp_path / "code"):
            pass
