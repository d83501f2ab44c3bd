"""The FOTA protocol, without I\/O and without a clock."""
