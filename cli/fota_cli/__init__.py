"""The `fota` command, and the only place where applications meet (`compose`)."""
