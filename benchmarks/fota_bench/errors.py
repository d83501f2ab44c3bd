"""What can go wrong with a measurement."""


class BenchmarkError(Exception):
    """A measurement that cannot be made, or is not valid."""
