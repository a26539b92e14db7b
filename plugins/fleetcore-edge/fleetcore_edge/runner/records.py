"""What the runner is given and gives back: functions, batches, outputs, limits, and the two ways of saying no."""

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from attrs import Factory, field, frozen

from fleetcore.errors import FleetError, Refused


@frozen(kw_only=True)
class Resources:
    """What one function may take. A batch that takes more is stopped.

    Attributes:
        memory_mib: linear memory.
        time_ms: processor time of a batch, in steps of 5 ms; also of starting and configuring.
        fuel: instructions of a batch, about; also of starting and configuring.
        stack_kib: of its calls; at most 1024.
        cpu_percent: of one processor, over time. A batch beyond it is refused with ``over_budget``.
    """

    memory_mib: int = 16
    time_ms: int = 100
    fuel: int = 50_000_000
    stack_kib: int = 512
    cpu_percent: float = 20.0


@frozen(kw_only=True)
class Function:
    """A function to load.

    Attributes:
        module: the file of its WebAssembly module.
        sha256: of that file; another content is refused.
        config: a JSON document, which the function gets when it starts.
        secrets: names to values; the function asks for each by its name.
        may: which of ``readings``, ``alerts``, ``commands`` it may put out. The rest is dropped and counted.
    """

    name: str
    version: str
    sha256: str
    module: Path
    config: bytes = b"{}"
    secrets: Mapping[str, bytes] = field(factory=dict, repr=False)
    resources: Resources = Resources()
    may: frozenset[str] = frozenset({"readings"})


@frozen(kw_only=True)
class Batch:
    """Readings as columns, in the order in which they came.

    Attributes:
        series: device, metric and unit of what the readings belong to. The device ``""`` is the gateway itself.
        at: ``array('I')``, for each reading its index into ``series``.
        time: ``array('q')``, milliseconds since 1970.
        value: ``array('d')``, finite.
    """

    series: Sequence[tuple[str, str, str]] = ()
    at: "array[int]" = Factory(lambda: array("I"))
    time: "array[int]" = Factory(lambda: array("q"))
    value: "array[float]" = Factory(lambda: array("d"))

    def __len__(self) -> int:
        return len(self.at)


class EdgeAlert(NamedTuple):
    """An alert that a function raises; its severity is ``info``, ``warning`` or ``critical``."""

    device: str
    metric: str
    severity: str
    kind: str
    message: str
    value: float
    time: int


class EdgeCommand(NamedTuple):
    """A command that a function sends; ``args`` is a JSON document."""

    device: str
    name: str
    args: str


@frozen(kw_only=True)
class Output:
    """What a function made of one batch.

    Attributes:
        log: lines that it wrote, at most 64 of 1,024 bytes.
        dropped: how many outputs it may not have, by kind.
    """

    readings: Batch = Batch()
    alerts: Sequence[EdgeAlert] = ()
    commands: Sequence[EdgeCommand] = ()
    log: Sequence[str] = ()
    dropped: Mapping[str, int] = MappingProxyType({})


@frozen(kw_only=True)
class Usage:
    """What a function has taken since it was loaded, restarts of its process included.

    Attributes:
        fuel, ms: fuel and processor time of all batches.
        memory_kib: its linear memory after the last batch.
        batches: handed over. ``stopped`` are those of them that were stopped, ``over_budget`` those that were refused
            before they ran.
        dropped: outputs that it may not have.
        restarts: fresh instances after the first one; a function loses its state with each.
        last_code, last_reason: of the last batch that was stopped; empty before.
    """

    fuel: int = 0
    ms: float = 0.0
    memory_kib: int = 0
    batches: int = 0
    stopped: int = 0
    over_budget: int = 0
    readings_in: int = 0
    readings_out: int = 0
    alerts: int = 0
    commands: int = 0
    dropped: int = 0
    restarts: int = 0
    last_code: str = ""
    last_reason: str = ""


@frozen(kw_only=True)
class RunnerSettings:
    """Bounds of the runner itself.

    Attributes:
        memory_mib: memory that all functions may be promised together.
        own_memory_mib: memory of the worker process beyond that.
        max_functions: loaded at once.
        module_bytes: size of a module.
        compile_s, compile_mib: processor time and memory of compiling one.
        max_stack_kib: the largest stack that a function may be given.
        batch_readings: readings of a batch.
        max_series: series that a function may see while it is loaded.
        output_bytes, output_readings, output_alerts, output_commands: of one batch.
        answer_s: how much longer than its time limit a batch may take by the wall clock before the worker is killed.
        burst_ms: processor time that a function may have saved up from its share.
        nice: of worker and compiler, 0 to 19.
    """

    memory_mib: int = 256
    own_memory_mib: int = 128
    max_functions: int = 64
    module_bytes: int = 4 << 20
    compile_s: int = 20
    compile_mib: int = 512
    max_stack_kib: int = 1024
    batch_readings: int = 100_000
    max_series: int = 65_536
    output_bytes: int = 8 << 20
    output_readings: int = 100_000
    output_alerts: int = 256
    output_commands: int = 64
    answer_s: float = 10.0
    burst_ms: float = 1_000.0
    nice: int = 5


class FunctionRefused(Refused):
    """A function cannot be loaded. ``code`` is one of those in docs/reference/edge-abi.md."""


class FunctionStopped(FleetError):
    """A batch was stopped: nothing of its output is given, and the function starts anew with the next one.

    Attributes:
        retry_after_ms: with ``over_budget``, after which the same batch may run; else 0.
    """

    def __init__(
        self, message: str, *, code: str, remedy: str = "", retry_after_ms: float = 0.0, **ids: object
    ) -> None:
        super().__init__(message, code=code, remedy=remedy, **ids)
        self.retry_after_ms = retry_after_ms
