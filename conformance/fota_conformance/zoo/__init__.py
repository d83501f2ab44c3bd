"""Small targets of known character, by which the kit itself is judged: good ones, and broken ones with one fault each.

`python -m fota_conformance.zoo server …` and `python -m fota_conformance.zoo device …` run them; `faults.py` is the
table of what is broken and which requirement must notice it. Nothing here imports more than the standard library, not
even the kit's own codec: if codec and target shared a mistake, nobody would see it.
"""
