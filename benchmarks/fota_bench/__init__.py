"""Measures server, fleet and readers beside their yardsticks; used by `run.py` alone and never installed.

What is measured is in `pairs` and `ingest`, what it is held against in `goals`, how it is told in `report` and `chart`.
What depends on the machine goes through `processes` and `machine`; the rest are functions of their arguments.
"""
