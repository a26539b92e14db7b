"""The settings of the engine, the same where a module is compiled and where it runs."""

import wasmtime

#: Processor time of one step of the engine's clock: the precision of a time limit.
TICK_MS = 5


def make_engine(stack_kib: int = 512) -> wasmtime.Engine:
    """An engine that counts fuel and time.

    Args:
        stack_kib: of the functions that run in it; compiled code does not depend on it.
    """
    config = wasmtime.Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    config.max_wasm_stack = stack_kib << 10
    # One thread compiles: the limit of processor time is then one of time, too.
    config.parallel_compilation = False
    # What the languages of the SDK do not need stays off: less to go wrong, and 32-bit offsets everywhere.
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.wasm_relaxed_simd = False
    config.wasm_gc = False
    config.wasm_exceptions = False
    config.wasm_stack_switching = False
    # Without it a module's data would be a mapped file of each instance.
    config.memory_init_cow = False
    # Nothing unwinds through compiled code: a trap jumps.
    config.native_unwind_info = False
    return wasmtime.Engine(config)
