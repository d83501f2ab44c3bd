"""The fota command."""
