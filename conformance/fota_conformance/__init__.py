"""The conformance kit: an independent witness that judges any FOTA server and any FOTA device.

The kit is always a TCP peer. It starts its targets by command or finds them by address, never by import, reads the
wire with its own codec and firmware with bincopy, so that a mistake of the product is not repeated by its judge.

| module | what it knows |
| --- | --- |
| `target` | the TOML file that describes what is judged |
| `process`, `hosts` | how a target is started, found ready, and stopped |
| `wire`, `wirelog`, `peer` | frames, what was seen of them, and the two blocking TCP peers |
| `reading` | firmware and flash dumps, as bincopy reads them |
| `exchange` | one whole update, in either role, phase by phase |
| `cases` | the pytest cases, one file per chapter |
| `verdicts`, `errors` | what a case can come to, and how it gets there |
| `case` | one running case, from its first fixture to its last report |
| `collector`, `results`, `reporting` | verdicts gathered by pytest, their JSON and table, and Allure's view of them |
| `plugin` | the pytest options; the rest is loaded only when a target is given |
| `run` | the cases in a pytest of their own |
"""
