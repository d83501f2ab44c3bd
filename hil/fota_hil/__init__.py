"""The bench: real boards, reached over serial lines. Nothing is here yet but the place and its rules.

What will live here: serial links (pyserial, which no other package may import), a relay that lets a board on a bench
update from a server over TCP, a programmer that speaks the AN2295 bootloader's protocol, a modem's AT commands, and
descriptions of boards. The protocols themselves (frames, AN2295, AT) are bytes and times and belong to
`fota_protocol`; links that need no pyserial (TCP, pseudo-terminal, memory) are in `fota_transport`.
"""
