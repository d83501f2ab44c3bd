"""One plain update, first and last."""

import pytest

from fota_conformance.device_bench import DeviceBench
from fota_conformance.images import fixture


@pytest.mark.fota_requirement("FOTA-DEV-update")
def test_first_update(device: DeviceBench) -> None:
    """Before anything else, a device that is served a whole image acks each record and the end frame, once each."""
    device.update(fixture("blink_1.s19"))


@pytest.mark.fota_requirement("FOTA-DEV-update")
def test_last_update(device: DeviceBench) -> None:
    """After everything else, a device takes an image."""
    device.update(fixture("blink_2.s19"))
