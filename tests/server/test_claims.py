"""The newest session of a device wins, in one process and among several."""

import itertools
import random

from fota_server.claims import ClaimBook, Claims, SharedClaims

MCUID = "0001100023593110965955141"
OTHER = "0011000235931109659550002"


class Owner:
    """A session's owner that releases its claim when it is superseded, as sessions do."""

    def __init__(self, claims: Claims, mcuid: str = MCUID) -> None:
        self.claims = claims
        self.mcuid = mcuid
        self.live = True
        claims.claim(mcuid, self)

    def supersede(self) -> None:
        self.live = False
        self.claims.release(self.mcuid, self)


def test_the_newest_claim_of_a_device_wins() -> None:
    """The older owner is told; another device's is not."""
    claims = Claims()
    old, other, new = Owner(claims), Owner(claims, OTHER), Owner(claims)

    assert (False, True, True) == (old.live, other.live, new.live)


def test_what_is_released_is_superseded_no_more() -> None:
    """A session that is over is not told of those that come after it."""
    claims = Claims()
    old = Owner(claims)
    claims.release(MCUID, old)
    Owner(claims)

    assert old.live


def test_claiming_twice_changes_nothing() -> None:
    """An owner does not supersede itself, and the book is told once."""
    told: list[tuple[str, str, int, float]] = []
    claims = SharedClaims(lambda *what: told.append(what))
    owner = Owner(claims)
    claims.claim(MCUID, owner)

    assert owner.live
    assert [("claim", MCUID, 1)] == [what[:3] for what in told]


def test_an_answer_that_comes_late_ends_no_newer_session() -> None:
    """The device was here, elsewhere, and is here again: what the book said of its first session is old."""
    claims = SharedClaims(lambda *_: None)
    Owner(claims)
    back = Owner(claims)
    claims.overtaken(MCUID, 1)
    was_live = back.live
    claims.overtaken(MCUID, 2)

    assert was_live
    assert not back.live


def test_an_answer_about_a_session_that_is_over_is_ignored() -> None:
    """It may cross the release."""
    claims = SharedClaims(lambda *_: None)
    claims.release(MCUID, Owner(claims))

    claims.overtaken(MCUID, 1)


def test_a_process_that_is_gone_holds_no_device() -> None:
    """Its devices are free, and nobody is told of what nobody has."""
    book: ClaimBook[str] = ClaimBook()
    book.claim("one", MCUID, 1, 0.1)
    book.claim("two", OTHER, 1, 0.2)
    book.forget("one")

    assert book.claim("two", MCUID, 2, 0.3) is None
    assert ("two", 1) == book.claim("one", OTHER, 1, 0.4)


def test_a_release_that_comes_late_frees_nothing() -> None:
    """The device is another's by then."""
    book: ClaimBook[str] = ClaimBook()
    book.claim("one", MCUID, 1, 0.1)
    overtaken = book.claim("two", MCUID, 1, 0.2)
    book.release("one", MCUID, 1)

    assert ("one", 1) == overtaken
    assert ("two", 1) == book.claim("one", MCUID, 2, 0.3)
    assert 1 == len(book)


def test_a_claim_that_is_heard_of_late_is_still_the_older_one() -> None:
    """Whose message comes first says nothing: the process that claimed earlier is told that it is overtaken."""
    book: ClaimBook[str] = ClaimBook()
    book.claim("two", MCUID, 1, 0.2)
    overtaken = book.claim("one", MCUID, 5, 0.1)

    assert ("one", 5) == overtaken
    assert ("two", 1) == book.claim("one", MCUID, 6, 0.3)


def test_among_processes_the_newest_session_is_left_however_messages_travel() -> None:
    """Claims and answers delayed at random, in their order on each way: in the end it alone has the device."""
    for seed in range(200):
        dice = random.Random(seed)
        to_book: list[list[tuple[str, str, int, float]]] = [[], [], []]
        to_process: list[list[tuple[str, int]]] = [[], [], []]
        book: ClaimBook[int] = ClaimBook()
        ticks = itertools.count()
        claims = [SharedClaims(lambda *what, way=way: way.append(what), ticks.__next__) for way in to_book]
        owners: list[Owner] = []

        def deliver(
            number: int,
            to_book: list[list[tuple[str, str, int, float]]] = to_book,
            to_process: list[list[tuple[str, int]]] = to_process,
            book: ClaimBook[int] = book,
            claims: list[SharedClaims] = claims,
        ) -> None:
            if to_book[number]:
                what, mcuid, count, at = to_book[number].pop(0)
                if what == SharedClaims.RELEASE:
                    book.release(number, mcuid, count)
                elif (overtaken := book.claim(number, mcuid, count, at)) is not None:
                    to_process[overtaken[0]].append((mcuid, overtaken[1]))
            if to_process[number]:
                claims[number].overtaken(*to_process[number].pop(0))

        for _ in range(30):
            if dice.random() < 0.3:
                owners.append(Owner(dice.choice(claims)))
            deliver(dice.randrange(3))
        while any(to_book) or any(to_process):
            deliver(dice.randrange(3))

        assert [False] * (len(owners) - 1) + [True] * bool(owners) == [owner.live for owner in owners], f"seed {seed}"
