"""How many sessions a second."""

from fota_server.rate import RateLimit


def test_no_limit_allows_all() -> None:
    """Without a number there is none."""
    limit = RateLimit(None, 0.0)

    assert all(limit.allows(0.0) for _ in range(10_000))


def test_a_second_is_shared_out() -> None:
    """A second's worth may come at once; then one by one, as time passes."""
    limit = RateLimit(10.0, 0.0)
    at_once = sum(limit.allows(0.0) for _ in range(100))
    later = sum(limit.allows(1.0 + 0.01 * step) for step in range(100))

    assert 10 == at_once
    assert 10 + 9 == later


def test_a_pause_saves_up_no_more_than_a_second() -> None:
    """After a quiet day there is no day's worth."""
    limit = RateLimit(10.0, 0.0)

    assert 10 == sum(limit.allows(86_400.0) for _ in range(100))


def test_less_than_one_a_second_allows_one() -> None:
    """A rate of one in ten seconds is no rate of none."""
    limit = RateLimit(0.1, 0.0)

    assert [True, False, False, True] == [limit.allows(now) for now in (0.0, 0.1, 9.0, 11.0)]
