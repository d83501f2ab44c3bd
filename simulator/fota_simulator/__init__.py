"""Virtual K60 boards."""
