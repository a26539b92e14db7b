"""Calls of wasmtime's C API for what happens with each batch.

``wasmtime.Func.__call__`` looks up the type and makes objects of each value, and every call through the
package converts pointers. Here a batch takes half of that. It needs the package's private bindings, which is why one
major version is required.
"""

import ctypes

import wasmtime
from wasmtime import _ffi as ffi

_ADDRESS, _U64 = ctypes.c_void_p, ctypes.c_uint64
#: Running WebAssembly lets go of the interpreter's lock, so that the clock ticks; what only looks does not.
_running, _looking = ctypes.CDLL(ffi.dll._name), ctypes.PyDLL(ffi.dll._name)
_call = _running.wasmtime_func_call_unchecked
_call.argtypes, _call.restype = [_ADDRESS, _ADDRESS, _ADDRESS, ctypes.c_size_t, _ADDRESS], _ADDRESS
_set_fuel = _looking.wasmtime_context_set_fuel
_set_fuel.argtypes, _set_fuel.restype = [_ADDRESS, _U64], _ADDRESS
_get_fuel = _looking.wasmtime_context_get_fuel
_get_fuel.argtypes, _get_fuel.restype = [_ADDRESS, _ADDRESS], _ADDRESS
_set_deadline = _looking.wasmtime_context_set_epoch_deadline
_set_deadline.argtypes, _set_deadline.restype = [_ADDRESS, _U64], None
_memory_at = _looking.wasmtime_memory_data
_memory_at.argtypes, _memory_at.restype = [_ADDRESS, _ADDRESS], _ADDRESS
_memory_size = _looking.wasmtime_memory_data_size
_memory_size.argtypes, _memory_size.restype = [_ADDRESS, _ADDRESS], ctypes.c_size_t

_MOST_VALUES = 8
#: A value has 16 bytes, for the vectors; an integer is in its lower half.
_VALUE_NUMBERS = ctypes.sizeof(ffi.wasmtime_val_raw_t) // 8


class Calls:
    """What one store does.

    Args:
        store: which outlives this.
    """

    def __init__(self, store: wasmtime.Store) -> None:
        self._context = ctypes.cast(store._context(), _ADDRESS).value
        self._values = (ffi.wasmtime_val_raw_t * _MOST_VALUES)()
        # The same bytes as numbers.
        self._numbers = memoryview(self._values).cast("B").cast("q")
        self._values_at = ctypes.addressof(self._values)
        self._trap = ctypes.c_void_p()
        self._trap_at = ctypes.addressof(self._trap)
        self._fuel = ctypes.c_uint64()
        self._fuel_at = ctypes.addressof(self._fuel)

    def allow(self, fuel: int, ticks: int) -> None:
        """Sets the fuel and the time that the next calls may take."""
        _set_fuel(self._context, fuel)
        _set_deadline(self._context, ticks)

    def fuel(self) -> int:
        """What is left."""
        _get_fuel(self._context, self._fuel_at)
        return self._fuel.value

    def memory(self, memory: wasmtime.Memory) -> tuple[int, int]:
        """Where a memory is, and how many bytes it has."""
        at = ctypes.addressof(memory._memory)
        return _memory_at(self._context, at) or 0, _memory_size(self._context, at)

    def __call__(self, function: wasmtime.Func, *arguments: int) -> int:
        """Calls a function of integers: its result as an i64, or in the low half of it as an i32.

        Raises:
            wasmtime.Trap: the code trapped.
            wasmtime.WasmtimeError: the call is not possible.
        """
        numbers, place = self._numbers, 0
        for argument in arguments:
            numbers[place] = argument
            place += _VALUE_NUMBERS
        error = _call(self._context, ctypes.addressof(function._func), self._values_at, _MOST_VALUES, self._trap_at)
        if self._trap.value:
            trap = ctypes.cast(self._trap.value, ctypes.POINTER(ffi.wasm_trap_t))
            self._trap.value = None
            raise wasmtime.Trap._from_ptr(trap)
        if error:
            raise wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t)))
        return numbers[0]
