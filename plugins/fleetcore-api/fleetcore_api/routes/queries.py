"""Queries: long ones, and why a device is or is not selected."""

from litestar import post
from litestar.params import JSONBody

from fleetcore.calls.cursors import decode, encode
from fleetcore.model.operator import Permission
from fleetcore.query.parse import parse
from fleetcore_api.models_state import QueryIn, QueryOut
from fleetcore_api.parameters import Caller


@post("/queries", permission=Permission.DEVICES_READ, status_code=200)
async def query(access: Caller, data: JSONBody[QueryIn]) -> QueryOut:
    """Ids of the devices that a query selects among those the caller may see."""
    clause = parse(data.where)
    if data.explain is not None:
        found = await access.fleet.search.explain(clause, await access.device(data.explain))
        return QueryOut(items=[], next=None, selected=found.truth is True, why=found.lines())
    selectable = access.rights.selectable(Permission.DEVICES_READ)
    if data.count:
        return QueryOut(items=[], next=None, count=await access.fleet.search.count(selectable.narrowed(clause)))
    page = await access.fleet.search.page(selectable.narrowed(clause), after=decode(data.cursor), limit=data.limit)
    return QueryOut(items=list(page.ids), next=encode(page.after))


HANDLERS = [query]
