"""Calls of WebAssembly functions through wasmtime's C API.

``wasmtime.Func.__call__`` looks up the function's type and makes objects for each value: 25 us a call where this takes
2 (benchmarks/bench_edge.py). It needs the package's private bindings, which is why one major version is required.
"""

import ctypes

import wasmtime
from wasmtime import _ffi as ffi


class Calls:
    """Calls functions of one store.

    Args:
        store: which outlives this.
    """

    def __init__(self, store: wasmtime.Store) -> None:
        self._context = store._context()
        self._values = (ffi.wasmtime_val_raw_t * 8)()
        self._trap = ctypes.POINTER(ffi.wasm_trap_t)()
        self._trap_at = ctypes.byref(self._trap)

    def __call__(self, function: wasmtime.Func, *arguments: int) -> int:
        """Calls a function of integers: its result as an i64, or the low half of it as an i32.

        Raises:
            wasmtime.Trap: the code trapped.
            wasmtime.WasmtimeError: the call is not possible.
        """
        values = self._values
        for place, argument in enumerate(arguments):
            values[place].i64 = argument
        error = ffi.wasmtime_func_call_unchecked(
            self._context, ctypes.byref(function._func), values, len(values), self._trap_at
        )
        if bool(self._trap):
            trap = wasmtime.Trap._from_ptr(self._trap)
            self._trap = ctypes.POINTER(ffi.wasm_trap_t)()
            self._trap_at = ctypes.byref(self._trap)
            raise trap
        if bool(error):
            raise wasmtime.WasmtimeError._from_ptr(error)
        return int(values[0].i64)
