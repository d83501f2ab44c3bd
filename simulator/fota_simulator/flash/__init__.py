"""Program flash: the array that keeps bits, the controller whose commands change it, and what can be wrong with it.

* `array`: erasing and programming, nothing else; quick, sparse and shared by thousands of devices.
* `controller`: FTFL and FTFE, command by command, with status, protection, times and faults, over one array.
* `configuration`: the flash configuration field: protection and security.
* `faults`: cells that are stuck, sectors that wear out.
* `file_flash`: an array that outlives its process.

A bootloader sees `FlashMemory`, which the array and the controller both are.
"""

from .array import ERASED, Flash, FlashMemory, SectorPool

__all__ = ["ERASED", "Flash", "FlashMemory", "SectorPool"]
