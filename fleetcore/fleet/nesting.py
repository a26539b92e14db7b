"""The nesting of groups and the references between their queries. Neither may contain a cycle."""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from fleetcore.errors import Conflict, NotFound
from fleetcore.model.group import Group
from fleetcore.query.ast import Clause, Compare, Has, OneOf
from fleetcore.query.resolve import leaves

_GROUPS = ("groups",)


def asked_for(clause: Clause) -> frozenset[str]:
    """The groups that a query refers to."""
    names: set[object] = set()
    for leaf in leaves(clause):
        if leaf.path == _GROUPS:
            match leaf:
                case Has(_, value) | Compare(_, _, value):
                    names.add(value)
                case OneOf(_, values):
                    names.update(values)
    return frozenset(name for name in names if isinstance(name, str))


class Nesting:
    """All groups at one moment; raises Conflict or NotFound where they are not valid together."""

    def __init__(self, groups: Mapping[str, Group], clauses: Mapping[str, Clause]) -> None:
        self._groups = groups
        for group in groups.values():
            for outer in group.within:
                if outer not in groups:
                    raise NotFound(f"Group {outer!r} does not exist", remedy="Create it first", group=outer)
        self._above = {name: self._climb(name) for name in groups}
        inside: dict[str, set[str]] = {name: {name} for name in groups}
        for name, above in self._above.items():
            for outer in above:
                inside[outer].add(name)
        # A query that refers to a group reads all groups inside it.
        needs = {
            name: {item for asked in asked_for(clause) for item in inside.get(asked, ())}
            for name, clause in clauses.items()
        }
        try:
            order = list(TopologicalSorter(needs).static_order())
        except CycleError as error:
            circle = " → ".join(error.args[1])
            raise Conflict(
                f"The groups' queries refer to each other in a cycle: {circle}",
                code="illegal_transition",
                remedy="Remove one of them from the cycle",
            ) from None
        #: Dynamic groups, each after those that its query refers to.
        self.order = [name for name in order if name in clauses]
        self.inside = inside

    def _climb(self, name: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        waiting = [name]
        while waiting:
            here = waiting.pop()
            for outer in self._groups[here].within:
                if outer == name:
                    raise Conflict(
                        f"Group {name!r} would contain itself",
                        code="illegal_transition",
                        remedy="Remove one of the groups from the cycle",
                        group=name,
                    )
                if outer not in found:
                    found[outer] = None
                    waiting.append(outer)
        return tuple(found)

    def depth(self, group: str) -> int:
        """The number of groups that contain the group."""
        return len(self._above.get(group, ()))

    def closed(self, direct: Iterable[str]) -> Sequence[str]:
        """The groups and all groups that contain them, sorted."""
        every = set(direct)
        for name in tuple(every):
            every.update(self._above.get(name, ()))
        return sorted(every)
