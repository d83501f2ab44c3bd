"""The actions of `fota hil`, one module each."""
