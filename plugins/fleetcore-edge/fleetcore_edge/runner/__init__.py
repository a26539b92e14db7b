"""The runner: WebAssembly functions in a process of their own, under limits, without authority.

The parent's side is `client`, with `records` for what goes in and out; `worker` is the other process, and `compiling`
the one that compiles. Nothing here imports numpy, and worker and compiler import only the standard library, wasmtime
and their own modules.
"""
