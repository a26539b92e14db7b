"""Functions at the edge: what a gateway runs, what a function may use, and what a gateway has.

A function is released like firmware, for the component ``function.NAME`` of gateways. The functions that a gateway is
to run are the object ``functions`` of its desired state, and what it runs is the same object of its report.
"""

from collections.abc import Mapping

from attrs import field, fields_dict, frozen

from fleetcore.model.twin import Json

#: The member of desired and of reported state that has a gateway's functions, by name.
FUNCTIONS = "functions"
#: The newest ABI of functions that gateways run unless they report another one.
ABI = 1
#: The reported state of a function that runs; only then is its version what the gateway runs.
RUNS = "running"
#: The reported states of a function that the gateway could not run.
FAILED = ("failed", "refused")
_PREFIX = "function."
_MIB = 1 << 20


def component_of(function: str) -> str:
    """The component that a function is."""
    return _PREFIX + function


def is_function(component: str) -> bool:
    """Whether a component is a function."""
    return component.startswith(_PREFIX)


def function_of(component: str) -> str:
    """The name of the function that a component is."""
    return component.removeprefix(_PREFIX)


@frozen(kw_only=True)
class Resources:
    """What a function may use: the runner stops a batch that exceeds it.

    Attributes:
        memory_mib: its linear memory.
        time_ms, fuel: for one batch.
        stack_kib: its stack.
        cpu_percent: of one processor's time, over all its batches.
    """

    memory_mib: int = 16
    time_ms: int = 100
    fuel: int = 50_000_000
    stack_kib: int = 512
    cpu_percent: int = 20


@frozen(kw_only=True)
class Function:
    """The contract of a function, the member ``function`` of its manifest.

    Attributes:
        abi: the version of the interface between function and runner.
        metrics: patterns of the metrics that it takes, ``vibration.*``; ``where`` selects leaves, empty for all.
        every_ms, every_readings: a batch is handed over at the latest after this time, and this number of readings.
        may: what it may return: ``readings``, ``alerts``, ``commands``.
        config: the defaults of its configuration.
        secrets: the names of secrets, whose values the gateway's operator gives there.
        replaces_raw: the readings that it takes are not sent to the fleet, only what it returns.
    """

    abi: int = ABI
    metrics: tuple[str, ...]
    where: str = ""
    every_ms: int = 1000
    every_readings: int = 1000
    may: tuple[str, ...] = ("readings",)
    resources: Resources = Resources()
    config: Json = field(factory=dict)
    secrets: tuple[str, ...] = ()
    replaces_raw: bool = False


@frozen(kw_only=True)
class Capacity:
    """Amounts of a gateway's resources; None where an amount is not known."""

    cpu_percent: int | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None

    def known(self, other: "Capacity") -> "Capacity":
        """With the amounts of another one where these are not known."""
        return Capacity(
            **{name: getattr(other, name) if value is None else value for name, value in self.amounts().items()}
        )

    def amounts(self) -> dict[str, int | None]:
        """The amounts by name."""
        return {name: getattr(self, name) for name in fields_dict(Capacity)}


#: Reported amounts are below this; every integer below it is exact as a float.
_MOST = 2**53
#: What is promised where nothing is.
NOTHING_PROMISED = Capacity(cpu_percent=0, memory_mib=0, disk_mib=0)
_UNITS: Mapping[str, str] = {
    "cpu_percent": "% of a processor",
    "memory_mib": "MiB of memory",
    "disk_mib": "MiB of disk",
}


def promise_of(resources: Resources, size_bytes: int) -> Capacity:
    """What a gateway promises a function with these resources, whose module has this size."""
    return Capacity(cpu_percent=resources.cpu_percent, memory_mib=resources.memory_mib, disk_mib=-(-size_bytes // _MIB))


def added(one: Capacity, other: Capacity) -> Capacity:
    """Two promises together."""
    rest = other.amounts()
    return Capacity(**{name: (value or 0) + (rest[name] or 0) for name, value in one.amounts().items()})


def largest(one: Capacity, other: Capacity) -> Capacity:
    """The larger amount of each resource."""
    rest = other.amounts()
    return Capacity(**{name: max(value or 0, rest[name] or 0) for name, value in one.amounts().items()})


def lacking(capacity: Capacity, promised: Capacity) -> list[str]:
    """Why a gateway cannot keep its promises: a sentence with figures for each resource that does not suffice."""
    found = []
    for name, wanted in promised.amounts().items():
        has = getattr(capacity, name)
        if not wanted:
            continue
        if has is None:
            found.append(f"how much {name} it has is not known")
        elif wanted > has:
            found.append(f"it has {has} {_UNITS[name]}, and {wanted} would be promised")
    return found


def declared(section: object) -> Capacity:
    """The capacity in a gateway's attributes; what is not a whole number is not known."""
    found = section.get("capacity") if isinstance(section, Mapping) else None
    amounts = found if isinstance(found, Mapping) else {}
    return Capacity(**{name: _whole(amounts.get(name)) for name in fields_dict(Capacity)})


def reported(document: Json) -> Capacity:
    """What a gateway reports that it has (``resources``)."""
    found = document.get("resources")
    amounts = found if isinstance(found, Mapping) else {}
    cores = amount(amounts, "cpu_cores")
    percent = None if cores is None else int(cores * 100)
    return Capacity(
        cpu_percent=percent, memory_mib=_whole(amounts.get("memory_mib")), disk_mib=_whole(amounts.get("disk_mib"))
    )


def _whole(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST else None


def room_left(capacity: Capacity, promised: Capacity) -> float:
    """The least share of a resource that is left, 0 to 1."""
    shares = [
        1 - (wanted or 0) / has
        for name, wanted in promised.amounts().items()
        if (has := getattr(capacity, name))
    ]  # fmt: skip
    return max(0.0, min(shares, default=0.0))


@frozen(kw_only=True)
class FunctionOffer:
    """The last offer of a function to a gateway, and what the gateway had before.

    Attributes:
        id: ``GATEWAY/FUNCTION``.
        execution: the name of the offer, which the entry in the desired state has too.
        before: the entry in the desired state before the offer; None where there was none.
        open: whether the offer has neither succeeded nor been taken back.
    """

    id: str
    device: str
    function: str
    execution: str
    before: Json | None = None
    open: bool = True
    version: int = 0


def offer_key(gateway: str, function: str) -> str:
    """The key of a function's last offer to a gateway."""
    return f"{gateway}/{function}"


def entries(document: Json) -> Mapping[str, Json]:
    """The functions of desired or reported state, by name; what is not an object is left out."""
    found = document.get(FUNCTIONS)
    if not isinstance(found, Mapping):
        return {}
    return {name: entry for name, entry in found.items() if isinstance(entry, Mapping)}


def amount(reported: Json, name: str) -> float | None:
    """A reported amount; None where there is none, or a value that no machine has."""
    value = reported.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < _MOST else None


def whole_amount(reported: Json, name: str) -> int | None:
    """As :func:`amount`, rounded."""
    value = amount(reported, name)
    return None if value is None else round(value)
