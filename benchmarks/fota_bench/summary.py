"""From measurements of pairs to the rows of a table: medians over the rounds, ratios within each round."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .pairs import C_PAIR, PAIRS, Measurement


@dataclass(frozen=True, slots=True)
class Row:
    """One pair at one number of connections, over all rounds."""

    connections: int
    pair: str
    records_per_s: float
    ratio: float
    """To the C pair."""
    ratio_low: float
    ratio_high: float
    at_once: float
    """Most devices that were under way at the same time."""
    server_cpu_us: float
    """Processor time of the server for one record, in microseconds, the kernel's work for it included."""
    fleet_cpu_us: float
    server_bytes_per_connection: float | None
    """By the devices under way at the same time, as is the next."""
    fleet_bytes_per_device: float | None


def summarize(measurements: Sequence[Measurement]) -> list[Row]:
    """Medians over the rounds. Whole updates, connecting included, are compared where the fleet is ours."""
    rows = []
    by_place = {(m.connections, m.pair, m.round): m for m in measurements}
    for count in dict.fromkeys(m.connections for m in measurements):
        for pair in PAIRS:
            of_pair = [m for m in measurements if (m.connections, m.pair) == (count, pair.name)]
            references = [by_place[count, C_PAIR.name, m.round] for m in of_pair]
            ratios = [
                m.rate_with_connecting / reference.rate_with_connecting if pair.our_fleet else m.rate / reference.rate
                for m, reference in zip(of_pair, references, strict=True)
            ]
            rows.append(
                Row(
                    connections=count,
                    pair=pair.name,
                    records_per_s=statistics.median(m.rate for m in of_pair),
                    ratio=statistics.median(ratios),
                    ratio_low=min(ratios),
                    ratio_high=max(ratios),
                    at_once=statistics.median(m.at_once for m in of_pair),
                    server_cpu_us=statistics.median(1e6 * m.server_cpu_s / m.records for m in of_pair),
                    fleet_cpu_us=statistics.median(1e6 * m.fleet_cpu_s / m.records for m in of_pair),
                    server_bytes_per_connection=_per_head([(m.server_rss_bytes, m.at_once) for m in of_pair]),
                    fleet_bytes_per_device=_per_head([(m.fleet_rss_bytes, m.at_once) for m in of_pair]),
                )
            )
    return rows


def _per_head(sizes: Sequence[tuple[int | None, int]]) -> float | None:
    known = [size / heads for size, heads in sizes if size is not None]
    return statistics.median(known) if known else None
