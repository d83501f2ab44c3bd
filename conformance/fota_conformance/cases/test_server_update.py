"""One whole update by a server under test: every byte, in order, to the right device."""

from collections.abc import Callable

import pytest

from fota_conformance.exchange import update_from_server
from fota_conformance.hosts import Device
from fota_conformance.peer import Peer
from fota_conformance.reading import Firmware
from fota_conformance.target import Handshake, Target

pytestmark = pytest.mark.fota_chapter("server", "A whole update", "MUST", "seed")


@pytest.mark.fota_devices(("demo_16k.s19", "16"))
def test_update_sends_every_record_of_the_file(
    server: Callable[[], Peer],
    devices: tuple[Device, ...],
    images: tuple[Firmware, ...],
    target: Target,
    acks_permission: bool,
) -> None:
    """A known device gets its file, record by record and byte for byte, then the end frame and a close."""
    with server() as peer:
        update_from_server(peer, target, devices[0], acks_permission=acks_permission, others=images)


@pytest.mark.fota_devices(("blink_1.s19", "16"), ("blink_2.s19", "2A"))
def test_each_device_gets_its_own_image(
    server: Callable[[], Peer], devices: tuple[Device, ...], images: tuple[Firmware, ...], target: Target
) -> None:
    """Two devices with different images, one after the other, each get their own."""
    acks_permission = target.handshake is not Handshake.IMMEDIATE
    for device in devices:
        with server() as peer:
            update_from_server(peer, target, device, acks_permission=acks_permission, others=images)
