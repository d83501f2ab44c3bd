"""The bench: real boards, reached over serial lines.

A relay (`relay`) carries the bytes of a board whose firmware speaks the update protocol to a server, and a programmer
(`programmer`) speaks the AN2295 bootloader's protocol to a board that knows nothing else. Both stand on `serial_link`,
a serial port by the contract of all links; nobody else may import pyserial. What runs commands at a board, its buttons,
its power, is `templates`.

The protocols themselves (frames, AN2295) are bytes and times and belong to `fota_protocol`; links that need no pyserial
(TCP, pseudo-terminal, memory) are in `fota_transport`. Not here yet: a modem's AT commands, and descriptions of boards.
"""
