"""The cases: `test_<role>_<chapter>.py` for each chapter, run as `pytest --pyargs fota_conformance.cases`.

A file says by `pytestmark = pytest.mark.fota_chapter(role, title, *tags)` what it is about; a case's docstring is its
title. A case of a server declares by `fota_devices` which devices the server must know; see `conftest.py` for what a
case may ask for.
"""
