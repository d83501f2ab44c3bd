"""Starts the benchmarks of this folder's package, whose command line is in `fota_bench.command`.

    python benchmarks/run.py [--connections 1,100,1000,10000] [--rounds 5] [--quick] [--json FILE] [--write FILE.md]

It needs the installed package and Linux. Python puts a script's folder on the path of imports, and nothing else does:
the package is looked up by its name at run time, and is no import for those who check types from another folder.
"""

import importlib
import sys

if __name__ == "__main__":
    sys.exit(importlib.import_module("fota_bench.command").main())
