"""Virtual K60 boards: flash, bootloader, one MCU, and thousands of them in a process."""
