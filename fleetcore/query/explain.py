"""Why a query selects something or not: each clause with its truth and the value that it saw."""

from collections.abc import Mapping

from attrs import frozen

from fleetcore.query.ast import And, Clause, Leaf, Not, Or
from fleetcore.query.evaluate import ABSENT, evaluate, value_at
from fleetcore.query.text import path_text, to_text


@frozen(kw_only=True)
class Explanation:
    """One clause and its result.

    Attributes:
        truth: true, false, or None for unknown.
        decided: whether the overall result depends on it: with another truth here, it could differ.
        path, seen: of a clause about a field: its path and the value there, absent where ``present`` is false.
    """

    clause: str
    truth: bool | None
    decided: bool
    path: str | None = None
    seen: object = None
    present: bool = False
    parts: tuple["Explanation", ...] = ()

    def lines(self, indent: str = "") -> list[str]:
        """One clause per line, with the decisive ones marked."""
        mark = "→" if self.decided else " "
        truth = {True: "true", False: "false", None: "unknown"}[self.truth]
        seen = ""
        if self.path is not None:
            seen = f"   {self.path} is {self.seen!r}" if self.present else f"   {self.path} is not there"
        here = f"{indent}{mark} {truth:7} {self.clause}{seen}"
        return [here, *(line for part in self.parts for line in part.lines(indent + "  "))]


def explain(clause: Clause, body: Mapping[str, object], *, decided: bool = True) -> Explanation:
    """The tree of explanations of a clause that is resolved (see resolve.py)."""
    truth = evaluate(clause, body)
    text = to_text(clause)
    match clause:
        case Not(inner):
            return Explanation(
                clause=text, truth=truth, decided=decided, parts=(explain(inner, body, decided=decided),)
            )
        case And(inners) | Or(inners):
            # A part is decisive where it has the truth of the whole: one false part of an `and`, all true parts of it.
            parts = tuple(explain(inner, body, decided=decided and evaluate(inner, body) is truth) for inner in inners)
            return Explanation(clause=text, truth=truth, decided=decided, parts=parts)
        case _:
            return _leaf(clause, body, text, truth, decided=decided)


def _leaf(clause: Leaf, body: Mapping[str, object], text: str, truth: bool | None, *, decided: bool) -> Explanation:
    seen = value_at(body, clause.path)
    present = seen is not ABSENT
    return Explanation(
        clause=text,
        truth=truth,
        decided=decided,
        path=path_text(clause.path),
        seen=seen if present else None,
        present=present,
    )


def deciding(explanation: Explanation) -> Explanation:
    """The first decisive clause about a field; it becomes the reason of a membership."""
    for part in explanation.parts:
        if part.decided:
            return deciding(part)
    return explanation
