"""One plain update, first and last."""

import pytest

from fota_conformance.server_bench import ServerBench


@pytest.mark.fota_requirement("FOTA-UPDATE-whole")
@pytest.mark.fota_devices("blink_1.s19")
def test_first_update(server: ServerBench) -> None:
    """Before anything else, a known device gets its image: every record byte for byte, the end frame, a close."""
    server.update()


@pytest.mark.fota_requirement("FOTA-UPDATE-whole")
@pytest.mark.fota_devices("blink_2.s19")
def test_last_update(server: ServerBench) -> None:
    """After everything else, a known device gets its image."""
    server.update()
