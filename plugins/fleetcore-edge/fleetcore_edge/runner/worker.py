"""The process that runs the functions: ``python -m fleetcore_edge.runner.worker FD MIB NICE``.

It has one socket and nothing else: no files, no environment, no network, no rights to gain. It handles a request at a
time and ends when the other side of the socket does.
"""

import json
import os
import resource
import socket
import sys
import threading
from typing import Any

import wasmtime

from fleetcore_edge.runner import frames
from fleetcore_edge.runner.confine import die_with_parent, give_up
from fleetcore_edge.runner.engine import make_engine
from fleetcore_edge.runner.instance import Instance, Loaded, processor_us
from fleetcore_edge.runner.outputs import Block
from fleetcore_edge.runner.reading import Reader
from fleetcore_edge.runner.stopping import Stopped
from fleetcore_edge.runner.ticking import Ticker


class Worker:
    """The loaded functions, and the answers to requests."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent, self._reader = parent, Reader(parent)
        #: By the stack of the functions that run in each; made when the first such function is loaded.
        self._engines: dict[int, wasmtime.Engine] = {}
        self._verifiers: dict[int, wasmtime.Module] = {}
        self._functions: dict[int, Loaded] = {}
        self._instances: dict[int, Instance] = {}
        self._ticker = Ticker(self._engines, threading.get_ident())

    def serve(self) -> None:
        """Answers until the parent is gone."""
        reader = self._reader
        while True:
            length, operation, number = frames.HEAD.unpack(reader.take(frames.HEAD.size))
            rest = length + frames.LENGTH.size - frames.HEAD.size
            if operation == frames.RUN:
                (now_ms,) = frames.NOW.unpack(reader.take(frames.NOW.size))
                self._run(number, rest - frames.NOW.size, now_ms)
            else:
                content = memoryview(bytearray(rest))
                reader.into(content)
                document, parts = json.loads(bytes(content[:number])), content[number:]
                if operation == frames.LOAD:
                    self._load(document, parts)
                else:
                    self._unload(document["number"])
                    self._answer(frames.DONE)

    def _load(self, said: dict[str, Any], parts: memoryview) -> None:
        pieces, begin = [], 0
        for size in said["parts"]:
            pieces.append(bytes(parts[begin : begin + size]))
            begin += size
        verifier, code, config, *values = pieces
        stack = said["stack_kib"]
        try:
            if stack not in self._engines:
                engine = make_engine(stack)
                self._verifiers[stack] = wasmtime.Module.deserialize(engine, verifier)
                self._engines[stack] = engine
            function = Loaded(
                name=said["name"],
                module=wasmtime.Module.deserialize(self._engines[stack], code),
                verifier=self._verifiers[stack],
                engine=self._engines[stack],
                config=config,
                secrets=dict(zip(said["secrets"], values, strict=True)),
                memory_mib=said["memory_mib"],
                time_ms=said["time_ms"],
                fuel=said["fuel"],
                limits=said["limits"],
            )
            instance = Instance(function, self._ticker.begin)
        except Stopped as stopped:
            self._stopped(stopped)
            return
        except wasmtime.WasmtimeError as error:
            self._stopped(Stopped("module_invalid", f"The compiled module is not taken: {error}"))
            return
        number = said["number"]
        self._unload(number)
        self._functions[number], self._instances[number] = function, instance
        self._answer(frames.DONE, memory_kib=instance.memory_kib, document=_document(log=instance.log))

    def _unload(self, number: int) -> None:
        self._functions.pop(number, None)
        instance = self._instances.pop(number, None)
        if instance is not None:
            instance.close()

    def _run(self, number: int, size: int, now_ms: int) -> None:
        begun, instance = processor_us(), self._instances.get(number)
        unread = size
        try:
            if instance is None and number not in self._functions:
                raise Stopped("not_loaded", "It was unloaded before its turn came")
            if instance is None:
                instance = self._instances[number] = Instance(self._functions[number], self._ticker.begin)
            place = instance.place(size)
            unread = 0
            self._reader.into(place)
            block, same = instance.run(size, now_ms)
            document = _said(block, same=same, log=instance.log)
        except Stopped as stopped:
            self._reader.skip(unread)
            fuel, memory_kib = (0, 0) if instance is None else (instance.fuel_used(), instance.memory_kib)
            log = [] if instance is None else instance.log
            self._instances.pop(number, None)
            if instance is not None:
                instance.close()
            self._stopped(stopped, fuel, processor_us() - begun, memory_kib, log)
            return
        self._answer(
            frames.DONE,
            fuel=instance.fuel_used(),
            us=processor_us() - begun,
            memory_kib=instance.memory_kib,
            document=document,
            same=same,
            readings=block.readings,
            columns=block.columns() if block.readings else [],
        )

    def _stopped(
        self, stopped: Stopped, fuel: int = 0, us: int = 0, memory_kib: int = 0, log: list[str] | None = None
    ) -> None:
        code, reason = stopped.args
        document = _document(code=code, reason=reason, log=log or [])
        self._answer(frames.STOPPED, fuel=fuel, us=us, memory_kib=memory_kib, document=document)

    def _answer(
        self,
        outcome: int,
        *,
        fuel: int = 0,
        us: int = 0,
        memory_kib: int = 0,
        document: bytes = b"",
        same: bool = False,
        readings: int = 0,
        columns: list[memoryview] | None = None,
    ) -> None:
        columns = columns or []
        length = frames.ANSWER.size - frames.LENGTH.size + len(document) + 20 * readings
        head = frames.ANSWER.pack(length, outcome, same, fuel, us, memory_kib, len(document), readings)
        pieces: list[Any] = [head, document, *columns]
        sent = self._parent.sendmsg(pieces)
        if sent < length + frames.LENGTH.size:
            # A large answer in several turns: what is left as one piece.
            self._parent.sendall(b"".join(pieces)[sent:])


def _said(block: Block, *, same: bool, log: list[str]) -> bytes:
    more: dict[str, object] = {}
    if not same and block.series:
        more["series"] = block.named_series()
    if block.alerts:
        more["alerts"] = block.named_alerts()
    if block.commands:
        more["commands"] = block.named_commands()
    return _document(log=log, **more)


def _document(**members: object) -> bytes:
    said = {name: value for name, value in members.items() if value}
    return json.dumps(said).encode() if said else b""


def main(descriptor: int, data_mib: int, nice: int) -> None:
    """Serves the socket of that number."""
    die_with_parent()
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    parent = socket.socket(fileno=descriptor)
    worker = Worker(parent)
    # Whatever is imported later would need a file.
    make_engine()
    give_up(
        {
            # Address space is reserved for memories and costs nothing; what is written to counts.
            resource.RLIMIT_DATA: data_mib << 20,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NPROC: 0,
            resource.RLIMIT_NOFILE: 0,
            resource.RLIMIT_CORE: 0,
        },
        nice,
    )
    try:
        worker.serve()
    except (EOFError, ConnectionError):
        sys.exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
