"""Deadlines of many sessions by one timer."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fota_transport.simulated import SimulatedLoop
from fota_transport.sweeper import LOOKS_PER_SECOND, Sweeper

_T = TypeVar("_T")


def run(main: Coroutine[Any, Any, _T]) -> _T:
    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(0)) as runner:
        return runner.run(main)


class Member:
    """Notes when it was called."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.called: list[float] = []
        self.aborted = False

    def timeout(self, now: float) -> None:
        self.called.append(now)
        self.deadline = None

    def abort(self) -> None:
        self.aborted = True


def test_a_deadline_is_met_within_one_interval() -> None:
    """Members are called at the first sweep after their deadline, the others never."""

    async def main() -> list[list[float]]:
        sweeper = Sweeper(asyncio.get_running_loop(), 0.5)
        members = [Member(deadline) for deadline in (0.7, 1.0, 1.1, 100.0, None)]
        for member in members:
            sweeper.add(member)
        await asyncio.sleep(10.0)
        sweeper.stop()
        return [member.called for member in members]

    assert run(main()) == [[1.0], [1.0], [1.5], [], []]


def test_thousands_are_looked_at_in_turn() -> None:
    """A sweep looks at so many that looking leaves time for what they do; the next one goes on behind them."""
    looks = LOOKS_PER_SECOND // 2

    async def main() -> list[list[float]]:
        sweeper = Sweeper(asyncio.get_running_loop(), 0.5)
        members = [Member(0.2) for _ in range(2 * looks + 1)]
        for member in members:
            sweeper.add(member)
        await asyncio.sleep(1.2)
        sweeper.discard(members[-1])
        late = Member(1.4)
        sweeper.add(late)
        await asyncio.sleep(10.0)
        sweeper.stop()
        return [member.called for member in (members[0], members[looks - 1], members[looks], *members[-2:], late)]

    # Who came last waits for one round of those who were there.
    assert run(main()) == [[0.5], [0.5], [1.0], [1.0], [], [2.5]]


def test_who_is_left_is_looked_at_once_an_interval_again() -> None:
    """When thousands have gone, nobody waits for their turns any more."""

    async def main() -> list[float]:
        sweeper = Sweeper(asyncio.get_running_loop(), 0.5)
        members = [Member(None) for _ in range(4 * LOOKS_PER_SECOND)]
        for member in members:
            sweeper.add(member)
        await asyncio.sleep(0.7)
        for member in members:
            sweeper.discard(member)
        await asyncio.sleep(0.5)
        late = Member(1.9)
        sweeper.add(late)
        await asyncio.sleep(10.0)
        sweeper.stop()
        return late.called

    assert run(main()) == [2.2]


def test_a_moved_deadline_counts_as_it_stands() -> None:
    """The sweeper reads a deadline at each sweep, so moving it needs no call."""

    async def main() -> list[float]:
        sweeper = Sweeper(asyncio.get_running_loop(), 1.0)
        member = Member(1.5)
        sweeper.add(member)
        await asyncio.sleep(1.2)
        member.deadline = 7.5
        await asyncio.sleep(20.0)
        sweeper.stop()
        return member.called

    assert run(main()) == [8.0]


def test_a_discarded_member_is_left_alone() -> None:
    """Neither a member that left nor one ended by another's time-out is called."""

    async def main() -> list[float]:
        sweeper = Sweeper(asyncio.get_running_loop(), 1.0)
        gone, ended = Member(1.0), Member(1.0)

        class Ender(Member):
            def timeout(self, now: float) -> None:
                super().timeout(now)
                sweeper.discard(ended)

        for member in (gone, Ender(1.0), ended):
            sweeper.add(member)
        sweeper.discard(gone)
        sweeper.discard(gone)
        await asyncio.sleep(3.0)
        sweeper.stop()
        return gone.called + ended.called

    assert run(main()) == []


def test_a_member_that_raises_is_aborted_and_the_rest_is_swept() -> None:
    """One failure is told to the loop; it stops neither this sweep nor the next."""
    told: list[object] = []

    class Failing(Member):
        def timeout(self, now: float) -> None:
            self.deadline = None
            raise ArithmeticError("a bug")

    async def main() -> tuple[bool, list[float]]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(type(context["exception"])))
        sweeper = Sweeper(loop, 1.0)
        failing, first, second = Failing(1.0), Member(1.0), Member(2.0)
        for member in (failing, first, second):
            sweeper.add(member)
        await asyncio.sleep(3.0)
        sweeper.stop()
        return failing.aborted, first.called + second.called

    assert run(main()) == (True, [1.0, 2.0])
    assert told == [ArithmeticError]


def test_a_stopped_sweeper_sweeps_no_more() -> None:
    """After stop nothing is called, not even a member added later."""

    async def main() -> list[float]:
        sweeper = Sweeper(asyncio.get_running_loop(), 1.0)
        before, after = Member(1.0), Member(1.0)
        sweeper.add(before)
        sweeper.stop()
        sweeper.stop()
        sweeper.add(after)
        await asyncio.sleep(5.0)
        return before.called + after.called

    assert run(main()) == []


def test_the_timer_starts_again_with_a_new_member() -> None:
    """An idle sweeper has no timer; the next member gets the next sweep."""

    async def main() -> tuple[list[float], int]:
        sweeper = Sweeper(asyncio.get_running_loop(), 1.0)
        first, second = Member(0.5), Member(10.5)
        sweeper.add(first)
        await asyncio.sleep(1.5)
        sweeper.discard(first)
        await asyncio.sleep(8.7)
        sweeper.add(second)
        await asyncio.sleep(2.0)
        sweeper.stop()
        return first.called + second.called, len(sweeper)

    assert run(main()) == ([1.0, 11.2], 1)


def test_a_sweep_that_is_late_itself_lets_members_read_first() -> None:
    """After a pause of the whole process, what peers sent meanwhile is looked at before deadlines are."""

    async def main() -> tuple[list[float], list[float]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        sweeper = Sweeper(loop, 0.5)
        answered, silent = Member(3.0), Member(3.0)
        sweeper.add(answered)
        sweeper.add(silent)
        await asyncio.sleep(1.2)
        loop.clock.advance(5.0)  # nothing ran
        loop.call_later(0.1, setattr, answered, "deadline", 100.0)  # what lay unread
        await asyncio.sleep(2.0)
        sweeper.stop()
        return answered.called, silent.called

    answered, silent = run(main())

    assert answered == []
    assert silent == [6.7]
