"""How many a second: a bucket of tokens that fills with time."""


class RateLimit:
    """At most `per_second` on the mean; after a pause, a second's worth may come at once. None: any number.

    Times are seconds of any one monotonic clock.
    """

    def __init__(self, per_second: float | None, now: float) -> None:
        self._per_second = per_second
        self._room = max(1.0, per_second or 0.0)
        self._tokens = self._room
        self._at = now

    def allows(self, now: float) -> bool:
        """Whether one more may come now; if so, it counts."""
        if self._per_second is None:
            return True
        self._tokens = min(self._room, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
