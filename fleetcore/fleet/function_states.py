"""What a gateway is to run, what it reports to run, and why the two differ."""

from collections.abc import Mapping

from attrs import field, frozen

from fleetcore.fleet.desired_functions import contract_of, promise
from fleetcore.model.edge import FAILED, FUNCTIONS, RUNS, Capacity, Function, entries
from fleetcore.model.twin import Json, Twin


@frozen(kw_only=True)
class FunctionState:
    """A function of a gateway.

    Attributes:
        wanted, wanted_sha256: the version that is deployed, and its module; None where none is.
        contract, promised: of the deployed version.
        config: what the deployment sets, over the defaults of the contract.
        execution: the campaign's execution that deployed it last.
        reported, reported_sha256, state, code, message: what the gateway reports.
        usage: the other numbers of its report, such as batches and fuel.
        in_sync: whether the gateway runs what is deployed.
        why: why it is not; empty where it is.
        since: since when it is in this state, ms since the epoch; None where that is not known.
    """

    name: str
    wanted: str | None = None
    wanted_sha256: str | None = None
    contract: Function | None = None
    promised: Capacity = Capacity()
    config: Json = field(factory=dict)
    execution: str | None = None
    reported: str | None = None
    reported_sha256: str | None = None
    state: str | None = None
    code: str | None = None
    message: str | None = None
    usage: Mapping[str, float] = field(factory=dict)
    in_sync: bool = False
    why: str = ""
    since: int | None = None


def function_states(twin: Twin) -> list[FunctionState]:
    """Every function that is deployed to a gateway or reported by it, by name."""
    wanted, reported = entries(twin.desired.document), entries(twin.reported.document)
    return [
        _state(twin, name, wanted.get(name), reported.get(name, {})) for name in sorted({*wanted, *reported})
    ]  # fmt: skip


def _state(twin: Twin, name: str, wanted: Json | None, reported: Json) -> FunctionState:
    why = _difference(wanted, reported)
    return FunctionState(
        name=name,
        wanted=None if wanted is None else _text(wanted, "version"),
        wanted_sha256=None if wanted is None else _text(wanted, "sha256"),
        contract=None if wanted is None else contract_of(wanted),
        promised=promise(wanted),
        config=config if wanted is not None and isinstance(config := wanted.get("config"), Mapping) else {},
        execution=None if wanted is None else _text(wanted, "execution"),
        reported=_text(reported, "version"),
        reported_sha256=_text(reported, "sha256"),
        state=_text(reported, "state"),
        code=_text(reported, "code"),
        message=_text(reported, "reason"),
        usage={
            key: value
            for key, value in reported.items()
            if key != "since" and isinstance(value, int | float) and not isinstance(value, bool)
        },
        in_sync=not why,
        why=why,
        since=_since(twin, name),
    )


def _difference(wanted: Json | None, reported: Json) -> str:
    version, state = _text(reported, "version"), _text(reported, "state")
    if wanted is None:
        return "" if state != RUNS else f"it runs {version}, and is not to run it"
    expected = _text(wanted, "version")
    if not reported:
        return f"it is to run {expected}, and reports nothing about it"
    if state in FAILED:
        said = ": ".join(filter(None, (_text(reported, "code"), _text(reported, "reason"))))
        return f"it is to run {expected}, and {version} {'is refused' if state == 'refused' else 'has failed'}" + (
            f" ({said})" if said else ""
        )
    if version != expected:
        return f"it is to run {expected}, and runs {version}"
    if _text(reported, "sha256") not in (None, _text(wanted, "sha256")):
        return f"it runs another module as {version}"
    return "" if state == RUNS else f"it is to run {expected}, and reports {state or 'no state'}"


def _since(twin: Twin, name: str) -> int | None:
    """When what decides about the difference changed last."""
    escaped = name.replace("~", "~0").replace("/", "~1")
    decides = tuple(f"/{FUNCTIONS}/{escaped}/{member}" for member in ("version", "sha256", "state"))
    times = [times[at] for times in (twin.desired.times, twin.reported.times) for at in decides if at in times]
    return max(times, default=None)


def _text(entry: Json, name: str) -> str | None:
    value = entry.get(name)
    return value if isinstance(value, str) else None
