"""How a fleet behaves, as data: moments, pauses, faults, and the file that faults come from."""

import itertools
from pathlib import Path
from random import Random

import pytest

from fota_simulator.behaviour import (
    PLAIN,
    Arrivals,
    Behaviour,
    FaultKind,
    FaultRule,
    RetryPolicy,
    load_faults,
)
from fota_simulator.errors import BehaviourError
from fota_transport.profiles import GPRS


@pytest.mark.parametrize(
    ("arrivals", "moments"),
    [
        (Arrivals(), [0.0, 0.0, 0.0, 0.0, 0.0]),
        (Arrivals(per_s=2.0), [0.0, 0.5, 1.0, 1.5, 2.0]),
        (Arrivals(burst=2, burst_every_s=30.0), [0.0, 0.0, 30.0, 30.0, 60.0]),
    ],
)
def test_devices_begin_when_they_should(arrivals: Arrivals, moments: list[float]) -> None:
    """All at once, evenly, or in bursts."""
    assert moments == list(arrivals.moments(5))


def test_pauses_grow_up_to_a_limit_and_chance_spreads_them() -> None:
    """Twice as long each time, and no two devices alike."""
    policy = RetryPolicy(retries=10, pause_s=5.0, longest_pause_s=60.0, jitter=0.5)
    pauses = [[policy.pause(attempts, Random(seed)) for attempts in range(1, 8)] for seed in range(200)]

    for nominal, column in zip((5, 10, 20, 40, 60, 60, 60), zip(*pauses, strict=True), strict=True):
        assert nominal * 0.5 <= min(column) < nominal * 0.6
        assert nominal * 1.4 < max(column) <= nominal * 1.5
    assert len({tuple(row) for row in pauses}) == 200


def test_a_pause_of_nothing_hammers() -> None:
    """A fleet without back-off is a fault that can be shown."""
    assert {0.0} == {RetryPolicy(retries=9, pause_s=0.0).pause(n, Random(1)) for n in range(1, 9)}


def test_a_device_does_the_same_whatever_the_others_do() -> None:
    """Its dice are its own: the run's seed, its number, its attempt."""
    behaviour = Behaviour(faults=(FaultRule(FaultKind.STALL, 0.5),), seed=7)
    faults = [behaviour.draw_fault(behaviour.dice(number, 1)) for number in range(50)]
    other = Behaviour(faults=behaviour.faults, seed=8)

    assert faults == [behaviour.draw_fault(behaviour.dice(number, 1)) for number in range(50)]
    assert faults != [behaviour.draw_fault(behaviour.dice(number, 2)) for number in range(50)]
    assert faults != [other.draw_fault(other.dice(number, 1)) for number in range(50)]


def test_faults_strike_as_often_as_their_rules_say() -> None:
    """The first rule that strikes wins; records lie in its range."""
    rules = (FaultRule(FaultKind.DISCONNECT, 0.2, 5, 9), FaultRule(FaultKind.HALF_OPEN, 0.5, 1, 1))
    behaviour = Behaviour(faults=rules)
    drawn = [behaviour.draw_fault(behaviour.dice(number, 1)) for number in range(5_000)]
    kinds = [fault.kind for fault in drawn if fault is not None]

    assert 0.18 < kinds.count(FaultKind.DISCONNECT) / 5_000 < 0.22
    assert 0.37 < kinds.count(FaultKind.HALF_OPEN) / 5_000 < 0.43
    assert {5, 6, 7, 8, 9} == {fault.record for fault in drawn if fault and fault.kind is FaultKind.DISCONNECT}


def test_plain_devices_are_known_as_such() -> None:
    """They take the short way; a retry changes nothing within an attempt."""
    assert PLAIN.is_plain
    assert Behaviour(retry=RetryPolicy(3), seed=1).is_plain
    for other in (Behaviour(think_s=0.1), Behaviour(link=GPRS), Behaviour(faults=(FaultRule(FaultKind.STALL, 0.1),))):
        assert not other.is_plain


def test_a_file_of_faults_says_what_goes_wrong(tmp_path: Path) -> None:
    """Every kind by its name; what is left out has a default."""
    path = tmp_path / "faults.toml"
    path.write_text(
        "".join(f'[[fault]]\nkind = "{kind.value}"\nprobability = 0.25\nrecords = [2, 3]\n' for kind in FaultKind)
        + '[[fault]]\nkind = "stall"\nprobability = 1\nseconds = 7\n'
    )

    expected = [FaultRule(kind, 0.25, 2, 3, 5.0) for kind in FaultKind]
    assert (*expected, FaultRule(FaultKind.STALL, 1.0, 1, 100, 7.0)) == load_faults(path)


GOOD = '[[fault]]\nkind = "stall"\nprobability = 0.1\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 1 to 100 tables [[fault]] and nothing else"),
        ("seed = 1\n" + GOOD, "expected 1 to 100 tables"),
        (GOOD * 101, "expected 1 to 100 tables"),
        ("fault = 1", "expected 1 to 100 tables"),
        ('[[fault]]\nkind = "stall"\n', "a fault without kind or probability"),
        ("fault = [1]", "a fault without kind or probability"),
        (GOOD + "colour = 1\n", "unknown key 'colour', expected kind, probability, records or seconds"),
        (GOOD.replace("stall", "fire"), "kind 'fire', expected one of disconnect, power-cut"),
        (GOOD.replace("0.1", "1.1"), "probability 1.1, expected 0 to 1"),
        (GOOD.replace("0.1", "true"), "probability True, expected 0 to 1"),
        (GOOD.replace("0.1", "nan"), "probability nan, expected 0 to 1"),
        (GOOD + "records = [0, 5]\n", "records [0, 5], expected [first, last], counted from 1"),
        (GOOD + "records = [5, 4]\n", "records [5, 4], expected"),
        (GOOD + "records = 5\n", "records 5, expected"),
        (GOOD + "seconds = -1\n", "seconds -1, expected 0 to 86400"),
        ("[[fault]\n", "Expected "),
    ],
)
def test_what_cannot_be_meant_is_told_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    """The file, what came, and what was expected."""
    path = tmp_path / "faults.toml"
    path.write_text(text)

    with pytest.raises(BehaviourError) as caught:
        load_faults(path)
    assert str(caught.value).startswith(f"faults {path}: ")
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(BehaviourError, match=r"faults .*none\.toml: No such file"):
        load_faults(tmp_path / "none.toml")


def test_arrivals_are_as_many_as_devices() -> None:
    """Also of a burst that does not divide them."""
    assert 7 == sum(1 for _ in Arrivals(burst=3, burst_every_s=1.0).moments(7))
    assert [0.0] * 3 == list(itertools.islice(Arrivals(burst=3, burst_every_s=1.0).moments(7), 3))
