"""What a store inherits keeps the contract too: the built-in store with its twelve own methods and nothing else."""

import inspect
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import fleetcore.interfaces.storage
from fleetcore.interfaces.storage import Sharing, Storage
from fleetcore.model.store import Commit, Put
from fleetcore.testing.storage_contract import StorageContract


def _forwarded(name):
    if name == "catalog":
        return property(lambda self: self.real.catalog)

    def forward(self, *given, **named):
        return getattr(self.real, name)(*given, **named)

    return forward


#: The twelve forwarded to a real store in ``real``; everything else is derived.
OnlyTheTwelve = type("OnlyTheTwelve", (Storage,), {name: _forwarded(name) for name in Storage.__abstractmethods__})


@pytest.fixture
def open_derived(open_at):
    @asynccontextmanager
    async def opener(folder):
        async with open_at(folder) as real:
            derived = OnlyTheTwelve()
            derived.real = real
            yield derived

    return opener


class TestDefaults(StorageContract):
    @pytest.fixture
    def open_storage(self, open_derived):
        return lambda: open_derived(None)

    @pytest.fixture
    def open_again(self, open_derived, tmp_path):
        return lambda: open_derived(tmp_path / "the-store")

    @pytest.fixture
    def open_backup(self, open_derived):
        return open_derived


def test_a_store_writes_twelve_methods_itself_and_the_docstring_names_them():
    assert len(Storage.__abstractmethods__) == 12
    for name in Storage.__abstractmethods__:
        role = "attr" if name == "catalog" else "meth"
        assert f":{role}:`{name}`" in Storage.__doc__


def test_the_help_of_the_interface_is_its_own_text_alone():
    import pydoc

    text = pydoc.plain(pydoc.render_doc(fleetcore.interfaces.storage))

    assert "class Storage" in text
    assert "__attrs" not in text
    assert len(text.splitlines()) < 450


def test_a_store_is_for_one_process_unless_it_says_otherwise():
    assert Storage.sharing is Sharing.ONE_PROCESS
    assert not inspect.isabstract(OnlyTheTwelve)


async def test_a_bounded_query_reads_no_more_than_it_may_look_at(open_derived):
    async with open_derived(None) as storage:
        await storage.commit(Commit(puts=tuple(Put(kind="k", key=f"{i:03}", body={}) for i in range(100))))
        sizes = []
        page = storage.real.page

        async def counted(*given, limit, **named):
            sizes.append(limit)
            return await page(*given, limit=limit, **named)

        storage.real.page = counted
        from fleetcore.query.ast import Exists

        found = await storage.find("k", where=Exists(("nothing",)), scan=20)

    assert (found.items, found.after) == ((), "019")
    assert sum(sizes) == 21


def test_the_examples_of_a_store_name_no_other_module_than_the_interfaces():
    """What `examples/small_storage.py` needs is public."""
    text = (Path(__file__).parents[2] / "examples" / "small_storage.py").read_text()

    assert "fleetcore.builtin" not in text
    assert "fleetcore.runtime" not in text
