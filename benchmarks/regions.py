"""Regions: commits with all links cut, appends to several colors, playback, imports, and edges.

Nearly every result is a ratio of two measurements that alternate, window by window, in one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import kvstore
from kvstore.execution.operations import Piece, Skip
from kvstore.fuzzylog.messages import encode
from kvstore.geo.chains import RegionLog
from kvstore.types import RegionId, Slot

REGIONS = ("eu", "us", "ap")
SHARDS = 4
EVERYTHING = 1 << 60


@dataclass(frozen=True)
class Amounts:
    """The number of windows, and of operations in each window."""

    windows: int
    commits: int
    appends: int
    nodes: int
    imports: int


FULL = Amounts(windows=10, commits=300, appends=300, nodes=1_000, imports=2_000)
QUICK = Amounts(windows=3, commits=20, appends=20, nodes=60, imports=60)


def lines(folder: Path, amounts: Amounts, report: Callable[[str], None]) -> list[tuple[str, ...]]:
    """Return the rows of the table: the comparison, its result, and the aim."""
    rows: list[tuple[str, ...]] = [("regions", "ratio", "aim")]
    for name, measure in (
        ("cut", commits_while_cut),
        ("colors", several_colors),
        ("playing", playback),
        ("imports", imports),
        ("edges", edges),
    ):
        report(f"regions: {name}")
        with kvstore.Geo(folder / f"regions-{name}", regions=REGIONS, shards=SHARDS) as geo:
            rows += measure(geo, amounts)
    return rows


# -- local commits while all links are down ----------------------------------------------------


def commits_while_cut(geo: kvstore.Geo, amounts: Amounts) -> list[tuple[str, ...]]:
    """Compare commits while all links are up, and every write is shipped, with commits while all are cut."""
    medians: list[float] = []
    tails: list[float] = []
    for _ in range(amounts.windows):
        windows = []
        for is_cut in (False, True):
            _cut_all(geo, is_cut=is_cut)
            geo.settle(30)
            windows.append(_latencies(geo["eu"], amounts.commits))
        before, during = windows
        medians.append(median(during) / median(before))
        tails.append(_p99(during) / _p99(before))
    _cut_all(geo, is_cut=False)
    return [
        ("local commit, all links down / up, median", f"{median(medians):.2f}", "<= 1.10"),
        ("local commit, all links down / up, p99", f"{median(tails):.2f}", "<= 2.00"),
    ]


def _cut_all(geo: kvstore.Geo, *, is_cut: bool) -> None:
    for place, one in enumerate(REGIONS):
        for other in REGIONS[place + 1 :]:
            (geo.cut if is_cut else geo.heal)(one, other)


def _latencies(region: kvstore.Region, count: int) -> list[float]:
    times = []
    for number in range(count):
        began = time.perf_counter()
        region.put(f"k{number}", number)
        times.append(time.perf_counter() - began)
    return times


def _p99(times: list[float]) -> float:
    return quantiles(times, n=100)[98]


# -- a node of several colors ------------------------------------------------------------------


def several_colors(geo: kvstore.Geo, amounts: Amounts) -> list[tuple[str, ...]]:
    """Compare appends to two colors with appends to one; all links are cut, so nothing is shipped."""
    _cut_all(geo, is_cut=True)
    log = geo["eu"].log
    latency, throughput = [], []
    for _ in range(amounts.windows):
        timed = {}
        for colors in ((0,), (0, 1)):
            times = []
            began = time.perf_counter()
            for _ in range(amounts.appends):
                start = time.perf_counter()
                log.append(colors=colors, payload=b"x" * 100)
                times.append(time.perf_counter() - start)
            timed[colors] = median(times), amounts.appends / (time.perf_counter() - began)
        latency.append(timed[0, 1][0] / timed[(0,)][0])
        throughput.append(timed[0, 1][1] / timed[(0,)][1])
    return [
        ("append to two colors / to one, latency", f"{median(latency):.2f}", "<= 1.30"),
        ("append to two colors / to one, throughput", f"{median(throughput):.2f}", ">= 0.70"),
    ]


# -- playing -----------------------------------------------------------------------------------


def playback(geo: kvstore.Geo, amounts: Amounts) -> list[tuple[str, ...]]:
    """Compare playing nodes that each depend on a node of the other chain with playing unlinked nodes."""
    plain, zigzag = geo["us"], geo["ap"]
    _cut_all(geo, is_cut=True)
    batch = [plain.log.append(colors=[0], payload=b"x" * 100) for _ in range(amounts.nodes)]
    for number in range(amounts.nodes):
        zigzag.log.append(colors=[1 + number % 2], payload=b"x" * 100)
    assert len(batch) == amounts.nodes
    _cut_all(geo, is_cut=False)
    geo.settle(60)
    ratios = []
    for _ in range(amounts.windows):
        seconds = {}
        for colors in ((0,), (1, 2)):
            began = time.perf_counter()
            count = sum(1 for _ in geo["eu"].log.sync(colors=colors))
            seconds[colors] = time.perf_counter() - began
            assert count == amounts.nodes, count
        ratios.append(seconds[1, 2] / seconds[(0,)])
    return [(f"playing {amounts.nodes} linked nodes / unlinked", f"{median(ratios):.2f}", "<= 2.00")]


# -- importing ---------------------------------------------------------------------------------


def imports(geo: kvstore.Geo, amounts: Amounts) -> list[tuple[str, ...]]:
    """Compare the speed of commits in one region with their import in a region that was cut off."""
    ratios = []
    for window in range(amounts.windows):
        _cut_all(geo, is_cut=True)
        began = time.perf_counter()
        for number in range(amounts.imports):
            geo["eu"].put(f"{window}-{number}", number)
        committed = time.perf_counter() - began
        geo.heal("eu", "us")
        began = time.perf_counter()
        geo.settle(60)
        ratios.append(committed / (time.perf_counter() - began))
        _cut_all(geo, is_cut=False)
        geo.settle(60)
    return [("imported transactions a second / committed ones", f"{median(ratios):.2f}", "")]


# -- edges -------------------------------------------------------------------------------------


def edges(geo: kvstore.Geo, amounts: Amounts) -> list[tuple[str, ...]]:
    """Measure the bytes of edges, markers and skips on the wire, while regions write in turn."""
    for number in range(amounts.nodes // 2):
        region = geo[REGIONS[number % 3]]
        region.put(f"k{number % 50}", number)
        if number % 10 == 0:
            geo.settle(30)
    geo.settle(30)
    eu = geo["eu"]
    with eu._readers.viewing() as view:
        log = RegionLog(view, SHARDS, RegionId(1), len(REGIONS))
        segments = dict(log.read(RegionId(1), (Slot(0),) * SHARDS, EVERYTHING))
    items = [item for segment in segments.values() for item in segment.items]
    pieces = [item for item in items if isinstance(item, Piece)]
    linked = sum(len(encode(item.edges)) - 1 + len(encode(item.places)) - 1 for item in pieces)
    others = sum(len(encode(item)) for item in items if not isinstance(item, Piece))
    skips = sum(isinstance(item, Skip) for item in items)
    nodes = max(1, len(pieces))
    return [
        ("bytes of edges in a node", f"{linked / nodes:.1f}", "<= 40"),
        (f"bytes of markers and skips ({skips}) per node", f"{others / nodes:.1f}", ""),
    ]
