"""What the server log says of its registry: once, and when all is well again."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.server.conftest import MCUID, PATIENCE, Site

from fota_server.registry import RegistryEntry, SqliteRegistry

ENTRY = RegistryEntry(MCUID, "blink_1.s19", "11")
IN_FORCE = "registry {}: read again, and in force"


def wait_for(site: Site, text: str, count: int = 1) -> None:
    limit = time.monotonic() + 3 * PATIENCE
    while site.log().count(text) < count:
        assert time.monotonic() < limit, site.log()
        time.sleep(0.02)


def test_a_text_registry_that_was_changed_is_said_to_be_in_force(site: Site) -> None:
    """After a change, and after it was away; a start is no change."""
    in_force = IN_FORCE.format(site.registry)
    with site.serve():
        assert in_force not in site.log()
        site.register(f"{MCUID},blink_2.s19,12")
        wait_for(site, in_force)
        site.registry.rename(site.folder / "away")
        wait_for(site, "cannot be read again (No such file or directory)")
        (site.folder / "away").rename(site.registry)
        wait_for(site, in_force, 2)

    assert 2 == site.log().count(in_force)


def put_sqlite(path: Path) -> None:
    new = path.with_name("new.sqlite")
    with closing(SqliteRegistry(new)) as registry:
        registry.put([ENTRY])
    new.replace(path)


@pytest.mark.parametrize("was_away", [False, True])
def test_an_sqlite_registry_that_was_replaced_is_said_to_be_in_force(site: Site, was_away: bool) -> None:
    """From then on anything may open it. A row that is written is no new file."""
    path = site.folder / "devices.sqlite"
    in_force = IN_FORCE.format(path)
    put_sqlite(path)
    with site.serve(registry=path) as server:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE devices SET version = '12'")
        server.update()
        assert in_force not in site.log()
        if was_away:
            path.unlink()
            wait_for(site, "is not there any more")
        put_sqlite(path)
        wait_for(site, in_force)

    assert 1 == site.log().count(in_force)


def test_trouble_does_not_tell_all_problems_again(site: Site) -> None:
    """A bad line is told once, whatever happens to the file meanwhile."""
    site.register("bad", f"{MCUID},blink_1.s19,11")
    with site.serve():
        site.registry.rename(site.folder / "away")
        wait_for(site, "cannot be read again (No such file or directory)")
        (site.folder / "away").rename(site.registry)
        wait_for(site, IN_FORCE.format(site.registry))

    assert 1 == site.log().count("line 1: 'bad'")
    assert 1 == site.log().count("cannot be read again")
