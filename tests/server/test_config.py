"""Settings: every key of the file, and a message with file, key and expectation for everything else."""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from fota_protocol.identity import McuidFormat
from fota_protocol.server import Handshake, ServerTimings
from fota_server.config import LogFormat, Settings, load_settings, read_settings, write_settings
from fota_server.errors import ConfigError


def config(folder: Path, text: str) -> Path:
    path = folder / "fota.toml"
    path.write_text(text)
    return path


EVERY_KEY = {
    "host": ('"127.0.0.1"', "127.0.0.1"),
    "port": ("0", 0),
    "registry": ('"/abs/devices.sqlite"', Path("/abs/devices.sqlite")),
    "firmware": ('"/abs/bin"', Path("/abs/bin")),
    "logs": ('"/abs/logs"', Path("/abs/logs")),
    "journal": ('"/abs/journal.sqlite"', Path("/abs/journal.sqlite")),
    "log-format": ('"json"', LogFormat.JSON),
    "mcuid-format": ('"hex"', McuidFormat.HEX),
    "handshake": ('"wait"', Handshake.WAIT),
    "identification-timeout": ("1.5", 1.5),
    "ack-timeout": ("2", 2.0),
    "end-ack-timeout": ("3.25", 3.25),
    "grace": ("0.5", 0.5),
    "stop-timeout": ("86400", 86_400.0),
    "limit": ("1", 1),
    "sessions-per-second": ("2.5", 2.5),
    "identification-size": ("66", 66),
    "workers": ("4", 4),
    "tls-port": ("4443", 4443),
    "tls-cert": ('"/abs/cert.pem"', Path("/abs/cert.pem")),
    "tls-key": ('"/abs/key.pem"', Path("/abs/key.pem")),
    "tls-client-ca": ('"/abs/ca.pem"', Path("/abs/ca.pem")),
    "allow-unterminated": ("true", True),
}


def test_every_setting_has_a_key() -> None:
    """The table of this test misses none."""
    assert {field.name.replace("_", "-") for field in dataclasses.fields(Settings)} == set(EVERY_KEY)


@pytest.mark.parametrize("key", EVERY_KEY)
def test_each_key_sets_its_setting(tmp_path: Path, key: str) -> None:
    """A key changes what has its name and leaves the rest at its default."""
    keys = {key, "tls-port", "tls-cert"} if key.startswith("tls-") else {key}
    changes: dict[str, Any] = {key.replace("-", "_"): EVERY_KEY[key][1] for key in keys}
    lines = [f"{key} = {EVERY_KEY[key][0]}\n" for key in keys]

    assert Settings().changed(changes) == load_settings(config(tmp_path, "".join(lines)))


@pytest.mark.parametrize("keys", [(), [key for key in EVERY_KEY if key != "journal"], EVERY_KEY])
def test_settings_are_read_as_they_were_written(keys: Collection[str]) -> None:
    """A process tells another its settings, all of them, by what JSON can say."""
    settings = Settings().changed({key.replace("-", "_"): EVERY_KEY[key][1] for key in keys})

    assert settings == read_settings(json.loads(json.dumps(write_settings(settings))), Path())


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    """Without a key all defaults hold."""
    assert Settings() == load_settings(config(tmp_path, "# nothing\n"))


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A configuration can be moved together with what it names."""
    settings = load_settings(config(tmp_path, 'registry = "devices.txt"\nfirmware = "sub/bin"\nlogs = "../logs"\n'))

    assert (tmp_path / "devices.txt", tmp_path / "sub/bin", tmp_path / "../logs") == (
        settings.registry,
        settings.firmware,
        settings.logs,
    )


def test_the_journal_is_in_the_log_folder_by_default(tmp_path: Path) -> None:
    """Unless it is said where."""
    assert Settings(logs=tmp_path).journal_path == tmp_path / "journal.sqlite"
    assert Settings(logs=tmp_path, journal=Path("j")).journal_path == Path("j")


def test_the_times_are_those_of_sessions() -> None:
    """Four of the times are kept by sessions."""
    settings = Settings(identification_timeout=1, ack_timeout=2, end_ack_timeout=3, grace=4)

    assert ServerTimings(identification=1, ack=2, end_ack=3, grace=4) == settings.timings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "unknown setting 'colour', expected one of host, port, registry"),
        ("ack_timeout = 1", "unknown setting 'ack_timeout'"),
        ("Port = 1", "unknown setting 'Port'"),
        ("timings = {}", "unknown setting 'timings'"),
        ("[server]\nport = 1", "unknown setting 'server'"),
        ('port = "4000"', "port = '4000', expected a whole number"),
        ("port = 4000.0", "port = 4000.0, expected a whole number"),
        ("port = true", "port = True, expected a whole number"),
        ("port = 65536", "port 65536, expected 0 to 65535"),
        ("port = -1", "port -1, expected 0 to 65535"),
        ("limit = 0", "limit 0, expected at least 1"),
        ("limit = [1]", "limit = [1], expected a whole number"),
        ("host = 1", "host = 1, expected a string"),
        ("sessions-per-second = 0", "sessions-per-second 0, expected more than 0 and at most 1000000"),
        ("sessions-per-second = nan", "sessions-per-second nan, expected more than 0"),
        ("identification-size = 65", "identification-size 65, expected 66 to 1024"),
        ("identification-size = 1025", "identification-size 1025, expected 66 to 1024"),
        ("workers = 0", "workers 0, expected 1 to 64"),
        ("workers = 65", "workers 65, expected 1 to 64"),
        ('port = 4443\ntls-port = 4443\ntls-cert = "a.pem"', "tls-port 4443, expected another than port"),
        ("tls-port = 4443", "tls-port and tls-cert: expected both or neither"),
        ('tls-cert = "a.pem"', "tls-port and tls-cert: expected both or neither"),
        ('tls-key = "a.pem"', "tls-key and tls-client-ca: expected with tls-port and tls-cert only"),
        ('tls-port = 65536\ntls-cert = "a.pem"', "tls-port 65536, expected 0 to 65535"),
        ("registry = 1", "registry = 1, expected a string"),
        ("journal = false", "journal = False, expected a string"),
        ("ack-timeout = 0", "ack-timeout 0, expected more than 0 and at most 86400 s"),
        ("ack-timeout = -1.5", "ack-timeout -1.5, expected more than 0"),
        ("grace = nan", "grace nan, expected more than 0"),
        ("stop-timeout = inf", "stop-timeout inf, expected more than 0"),
        ("end-ack-timeout = 86401", "end-ack-timeout 86401, expected"),
        ("identification-timeout = true", "identification-timeout = True, expected a number"),
        ("ack-timeout = 1" + "0" * 400, "ack-timeout = 1000"),
        ('ack-timeout = "30"', "ack-timeout = '30', expected a number"),
        ('handshake = "perhaps"', "handshake = 'perhaps', expected one of wait, immediate, auto"),
        ("handshake = []", "handshake = [], expected one of wait"),
        ("log-format = 1", "log-format = 1, expected one of text, json"),
        ('mcuid-format = "decimal"', "mcuid-format = 'decimal', expected one of decimal25, hex"),
        ("allow-unterminated = 1", "allow-unterminated = 1, expected a boolean"),
        ("port = ", "Invalid value (at "),
        ("port = 1\nport = 2", "Cannot overwrite a value (at line 2"),
    ],
)
def test_what_cannot_be_meant_is_told_by_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    """The message has the file, the key, what came and what was expected."""
    path = config(tmp_path, text + "\n")

    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert str(caught.value).startswith(f"configuration {path}: {message}")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Missing and unreadable files are told by name."""
    with pytest.raises(ConfigError, match=r"configuration .*none\.toml: No such file or directory"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_settings(tmp_path)


def test_a_file_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    path = tmp_path / "fota.toml"
    path.write_bytes(b'host = "\xff"\n')

    with pytest.raises(ConfigError, match=f"configuration {path}: 'utf-8' codec can't decode"):
        load_settings(path)


def test_changed_settings_are_checked(tmp_path: Path) -> None:
    """What the command line says is held to the same rules."""
    with pytest.raises(ConfigError, match="port 70000, expected 0 to 65535"):
        Settings().changed({"port": 70_000})
