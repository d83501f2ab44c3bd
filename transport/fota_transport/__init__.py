""" links, loops, clocks, traces."""
