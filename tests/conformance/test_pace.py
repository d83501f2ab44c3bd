"""A slow target is waited for longer, and one slow answer is not a slow target."""

from fota_conformance.pace import FACTOR, LIMIT_S, Pace


def test_quick_target_is_waited_for_as_long_as_it_takes_at_least() -> None:
    """Nothing seen, or quick answers: the least."""
    pace = Pace()

    assert 0.25 == pace.wait(0.25)
    pace.saw(0.001)
    assert 0.25 == pace.wait(0.25)


def test_slow_target_is_waited_for_longer() -> None:
    """The wait grows with the answers' median, and has a limit."""
    pace = Pace()
    for seconds in (0.3, 0.3, 9.0):
        pace.saw(seconds)

    assert FACTOR * 0.3 == pace.wait(0.25)
    for _ in range(100):
        pace.saw(60.0)
    assert LIMIT_S == pace.wait(0.25)
