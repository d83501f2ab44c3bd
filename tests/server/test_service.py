"""The update service on its own: what is offered, to whom, and what is remembered."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from tests.server.conftest import MCUID, OTHER_MCUID, Site

from fota_protocol.identity import Identification, McuidFormat
from fota_protocol.server import Handshake, ServerSession
from fota_protocol.status import Status
from fota_server import service as service_module
from fota_server.errors import UnservableError
from fota_server.firmware import FirmwareStore
from fota_server.journal import Journal, read_journal
from fota_server.logs import SessionLogs
from fota_server.registry import open_registry
from fota_server.service import Offer, SessionNote, UpdateService


@dataclass
class Owner:
    """Stands for a connection."""

    session: ServerSession = field(default_factory=lambda: ServerSession(0.0))
    superseded: int = 0

    def supersede(self) -> None:
        self.superseded += 1


@contextlib.contextmanager
def open_service(
    site: Site, handshake: Handshake = Handshake.AUTO, wall: Callable[[], float] = lambda: 1_000.0
) -> Iterator[UpdateService]:
    logger = logging.Logger("service")
    site.logs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(contextlib.closing(open_registry(site.registry)))
        journal = stack.enter_context(contextlib.closing(Journal(site.logs / "journal.sqlite", logger)))
        logs = stack.enter_context(contextlib.closing(SessionLogs(site.logs, logger)))
        store = FirmwareStore(site.firmware)
        yield UpdateService(registry, store, journal, logs, logger, handshake=handshake, wall=wall)


@pytest.fixture
def service(site: Site) -> Iterator[UpdateService]:
    """The service of the site's two devices."""
    with open_service(site) as service:
        yield service


def come(service: UpdateService, owner: Owner, mcuid: str = MCUID) -> tuple[SessionNote, Offer]:
    """A device comes and is offered its image."""
    note = SessionNote("peer:1", 999.0)
    entry, key = service.identified(note, Identification(mcuid))
    if service.cached(key) is None:
        service.store.remember(key, service.store.read(key))
    image = service.cached(key)
    assert image is not None
    return note, service.offer(note, entry, image, owner)


def end(
    service: UpdateService, owner: Owner, note: SessionNote, status: Status, acks_verdict: bool | None = None
) -> None:
    owner.session.acks_verdict = acks_verdict
    owner.session.abandon(status, "in a test", 1.0)
    service.ended(note, owner.session, owner)


def test_a_device_is_offered_what_the_registry_says(service: UpdateService) -> None:
    """File, version and handshake are the entry's, or the server's."""
    _, offer = come(service, Owner())

    assert ("blink_1.s19", "11", Handshake.AUTO, None) == (
        offer.entry.filename,
        offer.entry.version,
        offer.handshake,
        offer.acks_verdict,
    )
    assert offer.image.crc32 == 0x0EC74532


def test_an_entry_may_have_its_own_handshake(site: Site) -> None:
    """It wins over the server's, also when it is the default's name."""
    site.register(f"{MCUID},blink_1.s19,11,handshake=auto", f"{OTHER_MCUID},blink_2.s19,12")
    with open_service(site, Handshake.WAIT) as service:
        assert come(service, Owner())[1].handshake is Handshake.AUTO
        assert come(service, Owner(), OTHER_MCUID)[1].handshake is Handshake.WAIT


def test_a_stranger_is_refused(site: Site) -> None:
    """An unknown device is refused by the reference server's status and gets no log of its own."""
    note = SessionNote("peer:1", 999.0)
    with open_service(site) as service:
        with pytest.raises(UnservableError, match="the registry does not know the device") as caught:
            service.identified(note, Identification("9" * 25))
        end(service, Owner(), note, Status.CLIENT_UNVERIFIED)

    assert caught.value.status is Status.CLIENT_UNVERIFIED
    assert [] == list(site.logs.glob("9*.txt"))


def test_the_newest_claim_wins(service: UpdateService) -> None:
    """The older owner is told once; the end of the older session takes nothing from the newer."""
    old, new, other, newest = Owner(), Owner(), Owner(), Owner()
    note, _ = come(service, old)
    come(service, new)
    come(service, other, OTHER_MCUID)
    end(service, old, note, Status.SUPERSEDED)
    come(service, newest)

    assert (1, 1, 0, 0) == (old.superseded, new.superseded, other.superseded, newest.superseded)


def test_an_ended_session_is_superseded_no_more(service: UpdateService) -> None:
    """Who comes after the end closes nobody."""
    owner = Owner()
    note, _ = come(service, owner)
    end(service, owner, note, Status.SUCCESSFUL)
    come(service, Owner())

    assert owner.superseded == 0


@pytest.mark.parametrize("acks_verdict", [True, False])
def test_what_a_session_saw_of_the_handshake_is_offered_to_the_next(service: UpdateService, acks_verdict: bool) -> None:
    """Per device, whatever the end; a session that saw nothing changes nothing."""
    for seen in (acks_verdict, None):
        owner = Owner()
        note, _ = come(service, owner)
        end(service, owner, note, Status.CONNECTION_LOST, seen)

    assert come(service, Owner())[1].acks_verdict is acks_verdict
    assert come(service, Owner(), OTHER_MCUID)[1].acks_verdict is None


def test_a_time_out_forgets_the_handshake(service: UpdateService) -> None:
    """What was remembered may be what made it wait."""
    for status, seen in ((Status.SUCCESSFUL, True), (Status.TIMEOUT_CONNECTION, None)):
        owner = Owner()
        note, _ = come(service, owner)
        end(service, owner, note, status, seen)

    assert come(service, Owner())[1].acks_verdict is None


def test_memory_of_handshakes_is_bounded(service: UpdateService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device that was not seen for longest is forgotten."""
    monkeypatch.setattr(service_module, "REMEMBERED", 1)
    for mcuid in (MCUID, OTHER_MCUID):
        owner = Owner()
        note, _ = come(service, owner, mcuid)
        end(service, owner, note, Status.SUCCESSFUL, True)

    assert come(service, Owner(), MCUID)[1].acks_verdict is None
    assert come(service, Owner(), OTHER_MCUID)[1].acks_verdict is True


@pytest.mark.parametrize("restart", [False, True])
def test_once_means_one_success(site: Site, restart: bool) -> None:
    """A failure does not count; after a success the device is refused, also by the next process."""
    site.register(f"{MCUID},blink_1.s19,11,once")
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(open_service(site))
        for status in (Status.CONNECTION_LOST, Status.UNCONFIRMED, Status.SUCCESSFUL):
            owner = Owner()
            note, _ = come(service, owner)
            end(service, owner, note, status)
        if restart:
            stack.close()
            service = stack.enter_context(open_service(site))

        with pytest.raises(UnservableError, match="served once, and was") as caught:
            come(service, Owner())
        assert caught.value.status is Status.NOTHING_TO_DO


@pytest.mark.parametrize("line", ["blink_1.s19,12,once", "blink_2.s19,11,once", "blink_1.s19,11"])
def test_once_is_about_one_file_and_version(site: Site, line: str) -> None:
    """A new version, another file, or the end of `once` serves the device again."""
    site.register(f"{MCUID},blink_1.s19,11,once")
    with open_service(site) as service:
        owner = Owner()
        note, _ = come(service, owner)
        end(service, owner, note, Status.SUCCESSFUL)
        site.register(f"{MCUID},{line}")

        assert come(service, Owner())[1].entry.mcuid == MCUID


def test_a_session_log_has_each_moment_of_its_story(site: Site) -> None:
    """Told at the end, with the times at which things happened."""
    times = iter([1_001.0, 1_002.0, 1_003.0])
    with open_service(site, wall=lambda: next(times)) as service:
        owner = Owner()
        note, _ = come(service, owner)
        end(service, owner, note, Status.CONNECTION_LOST)
    (log,) = site.logs.glob(f"{MCUID}-*.txt")

    assert [
        (":39,000", "Accepted connection from peer:1"),
        (":41,000", f"MCUID {MCUID}"),
        (":42,000", f"Allowing update to {MCUID}: blink_1.s19, version 11"),
        (":42,000", "Image 0EC74532: 86 records, 1369 bytes"),
        (":43,000", f"Session of {MCUID} ended: CONNECTION_LOST (22), in a test after 0 of 86 records"),
    ] == [(line[16:23], line[33:]) for line in log.read_text().splitlines()]


def test_every_end_is_a_row(site: Site) -> None:
    """The row has what was known of the session when it ended."""
    with open_service(site) as service:
        owner = Owner()
        note, _ = come(service, owner)
        end(service, owner, note, Status.CONNECTION_LOST)
        stranger = Owner()
        end(service, stranger, SessionNote("peer:2", 990.0), Status.TIMEOUT_CONNECTION)
    first, second = read_journal(site.logs / "journal.sqlite")

    assert (MCUID, "blink_1.s19", "11", "0EC74532", 86, 22, 1.0) == (
        first.mcuid,
        first.filename,
        first.version,
        first.image_crc,
        first.records,
        first.status,
        first.duration_s,
    )
    assert (None, None, None, 0, 7, "peer:2", 10.0) == (
        second.mcuid,
        second.filename,
        second.image_crc,
        second.records,
        second.status,
        second.peer,
        second.duration_s,
    )


def test_a_version_with_letters_is_warned_of_where_devices_are_of_revision_b(site: Site) -> None:
    """Revision B's client takes only decimal digits for the end of its update."""
    logger = logging.Logger("service")
    site.logs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        site.registry.write_text("AB,blink_1.s19,1A\n")
        registry = stack.enter_context(contextlib.closing(open_registry(site.registry, mcuid_format=McuidFormat.HEX)))
        journal = stack.enter_context(contextlib.closing(Journal(site.logs / "journal.sqlite", logger)))
        logs = stack.enter_context(contextlib.closing(SessionLogs(site.logs, logger)))
        service = UpdateService(
            registry,
            FirmwareStore(site.firmware),
            journal,
            logs,
            logger,
            handshake=Handshake.AUTO,
            mcuid_format=McuidFormat.HEX,
            wall=lambda: 1_000.0,
        )

        owner = Owner()
        note, _ = come(service, owner, "AB")
        end(service, owner, note, Status.SUCCESSFUL)
    (log,) = site.logs.glob("AB-*.txt")

    assert "WARNING  version 1A: revision B clients end on decimal digits only" in log.read_text()


def test_a_clock_that_is_set_back_makes_no_negative_duration(site: Site) -> None:
    """A session that ends before it began, by the system's clock, took no time."""
    with open_service(site, wall=lambda: 500.0) as service:
        owner = Owner()
        note, _ = come(service, owner)
        end(service, owner, note, Status.SUCCESSFUL)
    (row,) = read_journal(site.logs / "journal.sqlite")

    assert (999.0, 0.0) == (row.started_at, row.duration_s)
