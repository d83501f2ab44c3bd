"""What a power cut does to a device in mid-update: every cut there is, judged.

* `scenario`: the update that is cut: part, bootloader, the application before it and the one that it brings.
* `verdict`: what a device does after a cut, and whether it can be updated again.
* `play`: one cut, played as it happens, without any short cut.
* `explore`: all cuts, each state judged once.
* `promises`: what a policy promises, held against the verdicts.
* `run`: everything, on several processes.
"""
