"""`python -m fota_cli` is `fota`."""

import sys

from .main import main

sys.exit(main())
