"""Makes `benchmarks` importable: it belongs to the checkout and is never installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
