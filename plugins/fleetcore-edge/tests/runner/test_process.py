"""The worker process: what it is left with, and what happens when it ends."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fleetcore_edge.runner.records import FunctionRefused, FunctionStopped
from fleetcore_edge.runner.runner import open_runner

from fleetcore.testing.patience import PATIENCE_S

LOOP = "(loop $again (br $again))"


async def until(holds):
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


async def test_the_worker_has_its_socket_and_nothing_else(runner, make, monkeypatch):
    await runner.load(make())
    process = Path(f"/proc/{runner.pid}")

    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    limits = (process / "limits").read_text()
    files = [str(file.readlink()) for file in (process / "fd").iterdir()]

    assert status["NoNewPrivs"] == "1"
    assert (process / "environ").read_bytes() == b""
    assert os.getsid(runner.pid) == runner.pid
    assert sorted(place.partition(":")[0] for place in files) == ["/dev/null"] * 3 + ["socket"]
    for name in ("Max open files", "Max file size", "Max processes", "Max core file size"):
        (line,) = [line for line in limits.splitlines() if line.startswith(name)]
        assert line.removeprefix(name).split()[:2] == ["0", "0"]
    (line,) = [line for line in limits.splitlines() if line.startswith("Max data size")]
    assert int(line.split()[3]) == (256 + 128) << 20


async def test_the_parent_imports_neither_wasmtime_nor_numpy():
    text = "import sys, fleetcore_edge.runner.runner; print({'wasmtime', 'numpy'} & set(sys.modules))"
    text += "\nimport fleetcore_edge.runner.worker; print({'numpy', 'attrs', 'asyncio', 'msgspec'} & set(sys.modules))"

    first = subprocess.run([sys.executable, "-c", text.splitlines()[0]], capture_output=True, text=True, check=True)
    second = subprocess.run(
        [sys.executable, "-c", "import sys" + text.splitlines()[1].replace("import", ", ", 1)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert (first.stdout, second.stdout) == ("set()\n", "set()\n")


async def test_a_worker_that_is_killed_in_mid_batch_is_started_again_with_all_functions(runner, make, wat, readings):
    await runner.load(make("loops", run=wat(LOOP), resources={"time_ms": 600_000}))
    await runner.load(make("fine"))
    running = asyncio.create_task(runner.run("loops", readings()))
    waiting = [asyncio.create_task(runner.run("fine", readings())) for _ in range(5)]
    await asyncio.sleep(0.1)

    os.kill(runner.pid, signal.SIGKILL)

    with pytest.raises(FunctionStopped) as caught:
        await running
    assert (caught.value.code, bool(caught.value.remedy)) == ("crashed", True)
    for task in waiting:
        assert (await task).readings == readings()
    usage = runner.usage()
    assert (usage["loops"].stopped, usage["loops"].last_code) == (1, "crashed")
    assert (usage["fine"].stopped, usage["fine"].batches, usage["fine"].restarts) == (0, 5, 1)
    assert runner.restarts == 1


async def test_a_worker_that_is_killed_while_idle_is_started_again(runner, make, readings):
    await runner.load(make())

    for killed in (1, 2):
        os.kill(runner.pid, signal.SIGKILL)
        await until(lambda killed=killed: runner.restarts == killed and runner.pid is not None)

    assert (await runner.run("echo", readings())).readings == readings()
    assert runner.usage()["echo"].restarts == 2


async def test_a_worker_that_does_not_answer_is_killed(opened, make, readings):
    runner = await opened(answer_s=0.5)
    await runner.load(make(resources={"time_ms": 10}))
    pid = runner.pid
    os.kill(pid, signal.SIGSTOP)

    with pytest.raises(FunctionStopped) as caught:
        await runner.run("echo", readings())

    assert caught.value.code == "out_of_time"
    assert (await runner.run("echo", readings())).readings == readings()
    assert runner.pid != pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_batch_that_comes_at_the_moment_of_the_loss_runs_in_the_next_process(runner, make, readings):
    await runner.load(make())
    runner._link._lose("it has ended")

    assert (await runner.run("echo", readings())).readings == readings()
    assert runner.restarts == 1


async def test_a_runner_that_is_closed_refuses_batches_that_wait_and_later_ones(compiled, make, wat, readings):
    async with open_runner(compiled) as runner:
        await runner.load(make("loops", run=wat(LOOP), resources={"time_ms": 60_000}))
        await runner.load(make())
        running, waiting = (asyncio.create_task(runner.run(name, readings())) for name in ("loops", "echo"))
        await asyncio.sleep(0.05)

    with pytest.raises(FunctionStopped, match="the runner is closed"):
        await running
    with pytest.raises(FunctionRefused, match="The runner is closed"):
        await waiting
    with pytest.raises(FunctionRefused, match="The runner is closed"):
        await runner.run("echo", readings())


async def test_the_worker_ends_with_the_runner(compiled, make):
    async with open_runner(compiled) as runner:
        await runner.load(make())
        pid = runner.pid

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_the_worker_ends_with_its_parent_also_in_mid_batch(tmp_path, make, wat, compiled):
    function = make("loops", run=wat(LOOP))
    script = f"""
        import asyncio
        from array import array
        from pathlib import Path
        from fleetcore_edge.runner.records import Batch, Function, Resources
        from fleetcore_edge.runner.runner import open_runner

        async def main():
            async with open_runner(Path({str(compiled)!r})) as runner:
                await runner.load(Function(name="loops", version="1", sha256={function.sha256!r},
                    module=Path({str(function.module)!r}), resources=Resources(time_ms=600_000, fuel=10**15)))
                batch = asyncio.create_task(runner.run("loops", Batch()))
                await asyncio.sleep(0.2)
                print(runner.pid, flush=True)
                await batch

        asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), stdout=asyncio.subprocess.PIPE
    )
    pid = int(await process.stdout.readline())

    process.kill()

    await process.wait()

    def ended():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"

    await until(ended)


async def test_fifty_functions_at_once_each_gets_its_own(opened, make, wat, readings):
    runner = await opened(memory_mib=64)
    imports = '(import "fleetcore" "log" (func $log (param i32 i32)))'
    configure = """(func (export "fc_configure") (param $at i32) (param $size i32) (result i32)
      (memory.copy (i32.const 8) (local.get $at) (local.get $size)) (i32.const 0))"""
    log = "(call $log (i32.const 8) (i32.const 5))"
    for number in range(50):
        run = wat(log if number % 10 else "(unreachable)")
        config, resources = f'"f{number:02}"'.encode(), {"memory_mib": 1}
        await runner.load(
            make(f"f{number}", imports=imports, configure=configure, run=run, config=config, resources=resources)
        )
    batches = {number: readings(5 + number) for number in range(50)}

    async def one(number):
        results = [runner.run(f"f{number}", batches[number]) for _ in range(4)]
        return await asyncio.gather(*results, return_exceptions=True)

    results = await asyncio.gather(*(one(number) for number in range(50)))

    for number, outputs in enumerate(results):
        if number % 10:
            assert [output.readings for output in outputs] == [batches[number]] * 4
            assert [list(output.log) for output in outputs] == [[f'"f{number:02}"']] * 4
        else:
            assert [output.code for output in outputs] == ["trapped"] * 4


async def test_a_caller_that_is_cancelled_disturbs_nothing(runner, make, wat, readings):
    await runner.load(make("loops", run=wat(LOOP), resources={"time_ms": 100}))
    await runner.load(make("fine"))
    left = asyncio.create_task(runner.run("loops", readings()))
    await asyncio.sleep(0)
    left.cancel()

    assert (await runner.run("fine", readings())).readings == readings()
    assert left.cancelled()


async def test_a_function_that_is_unloaded_or_replaced(runner, make, wat, readings):
    await runner.load(make())
    await runner.load(make(run=wat("", "(i64.const -9)")))
    with pytest.raises(FunctionStopped) as caught:
        await runner.run("echo", readings())
    assert caught.value.code == "failed"

    with pytest.raises(FunctionRefused):
        await runner.load(make(abi=""))
    with pytest.raises(FunctionStopped):
        await runner.run("echo", readings())

    await runner.unload("echo")
    with pytest.raises(FunctionRefused) as refused:
        await runner.run("echo", readings())
    assert refused.value.code == "not_loaded"
    assert runner.usage() == {}
    await runner.unload("echo")


async def test_a_function_has_the_time_its_secrets_and_its_configuration(opened, make, readings):
    from fleetcore.testing.clock import MovableClock

    runner = await opened(clock=MovableClock(1_700_000_000_123))
    imports = """(import "fleetcore" "log" (func $log (param i32 i32))) (import "fleetcore" "now" (func $now (result i64)))
      (import "fleetcore" "secret" (func $secret (param i32 i32 i32 i32) (result i32)))"""
    data = '(data (i32.const 8) "keynone") (global $status (mut i32) (i32.const 0))'
    configure = """(func (export "fc_configure") (param $at i32) (param $size i32) (result i32)
      (call $log (local.get $at) (local.get $size)) (i32.const 0))"""
    run = """(func (export "fc_run") (param $at i32) (param $size i32) (result i64)
      (call $log (i32.const 200) (call $secret (i32.const 8) (i32.const 3) (i32.const 200) (i32.const 50)))
      (if (i32.ne (call $secret (i32.const 11) (i32.const 4) (i32.const 200) (i32.const 50)) (i32.const -1)) (then (unreachable)))
      (if (i32.ne (call $secret (i32.const 8) (i32.const 3) (i32.const 200) (i32.const 2)) (i32.const -1)) (then (unreachable)))
      (if (i32.ne (call $secret (i32.const 8) (i32.const 3) (i32.const -20) (i32.const 50)) (i32.const -1)) (then (unreachable)))
      (call $log (i32.const -10) (i32.const 100))
      (i64.sub (i64.const 0) (call $now)))"""
    await runner.load(
        make(
            "told",
            imports=imports,
            more=data,
            configure=configure,
            run=run,
            config=b'{"a":1}',
            secrets={"key": b"s3cret"},
        )
    )

    with pytest.raises(FunctionStopped) as caught:
        await runner.run("told", readings())

    assert "-1700000000123" in caught.value.message


async def test_what_a_function_logs_is_bounded(runner, make, wat, readings):
    imports = '(import "fleetcore" "log" (func $log (param i32 i32)))'
    code = "(local $n i32) (loop $more (call $log (i32.const 0) (i32.const 5000)) (local.set $n (i32.add (local.get $n) (i32.const 1)))"
    code += "(br_if $more (i32.lt_u (local.get $n) (i32.const 100))))"
    await runner.load(make("talks", imports=imports, run=wat(code)))

    output = await runner.run("talks", readings())

    assert [len(line) for line in output.log] == [1024] * 64
