"""Commands of the transcripts in ``tests/transcripts/eris`` that show what is on the disks."""

from __future__ import annotations

from collections.abc import Callable

from kvstore import keys
from kvstore.eris.log_tail import committed_after
from kvstore.eris.shard_state import Status
from kvstore.execution.stored_value import decoded_value
from kvstore.storage import MemoryEnvironment
from kvstore.types import Slot
from tests.support.cluster import SECOND, Cluster
from tests.support.eris_text import extras, joined, shown_stamped


class Disks:
    """Shows what the hosts of a cluster have on their disks."""

    cluster: Cluster

    def _replicas(self, which: tuple[str, ...]) -> list[tuple[int, int]]:
        """Host and shard of the replicas of the hosts that live; s0, r1 or s0.r1 chooses some."""
        return [
            (host, shard)
            for shard in range(self.cluster.shards)
            for host in sorted(self.cluster.hosts)
            if not which or {f"s{shard}", f"r{host}", f"s{shard}.r{host}"} & set(which)
        ]

    def _shown(self, which: tuple[str, ...], show: Callable[[int, int], str]) -> list[str]:
        return grouped([(f"s{shard}.r{host}", show(host, shard)) for host, shard in self._replicas(which)])

    def _status(self, *which: str) -> list[str]:
        return self._shown(which, self._status_of)

    def _status_of(self, host: int, shard: int) -> str:
        record, replica = self.cluster.record(host, shard), self.cluster.replica(host, shard)
        learner = " learner" if replica.is_learner else ""
        status = "" if replica.status is Status.NORMAL else f" ({replica.status.value})"
        state = ", ".join("=".join(map(str, item)) for item in self.cluster.values(host, shard).items())
        return (
            f" epoch {record.epoch} view {record.view}{status} log {record.head[0]}..{record.head[1]}"
            f" stable {record.stable} executed {record.executed}{extras(record)}{learner}: {state or 'empty'}"
        )

    def _log(self, *which: str) -> list[str]:
        return self._shown(which, self._log_of)

    def _log_of(self, host: int, shard: int) -> str:
        return ": " + (", ".join(map(shown_stamped, self.cluster.log(host, shard))) or "empty")

    def _cells(self, *which: str) -> list[str]:
        return self._shown(which, self._cells_of)

    def _cells_of(self, host: int, shard: int) -> str:
        cells = self.cluster.cells(host, shard).items()
        return ": " + (
            ", ".join(f"{key!s}={value} at {version}" for key, (value, version) in cells) or "empty"
        )

    def _clocks(self, *which: str) -> list[str]:
        return self._shown(which, self._clocks_of)

    def _clocks_of(self, host: int, shard: int) -> str:
        times = [stamped.stamp.clock for stamped in self.cluster.log(host, shard) if stamped is not None]
        own = self.cluster.record(host, shard).clock
        return f" clock {shown_time(own)}, log: {', '.join(map(shown_time, times)) or 'empty'}"

    def _windows(self, *which: str) -> list[str]:
        return self._shown(which, self._windows_of)

    def _windows_of(self, host: int, shard: int) -> str:
        windows = self.cluster.record(host, shard).windows
        return " knows " + (
            "; ".join(
                f"client {client}: answered {window.answered}, outcomes of {sorted(window.outcomes)}"
                for client, window in windows.items()
            )
            or "no client"
        )

    def _changes(self, host: str) -> list[str]:
        """What a watch on this host shows."""
        view = MemoryEnvironment(self.cluster.disk, host).view()
        return [
            f"s{piece.shard} slot {piece.slot}: "
            + (", ".join(map(shown_change_of, piece.changes.items())) or "nothing")
            for committed in committed_after(view, [Slot(0)] * self.cluster.shards)
            for piece in committed.pieces
        ]

    def _verify(self) -> list[str]:
        return grouped(
            [
                (f"h{host}", f" has {self.cluster.problems(host) or 'no problems'}")
                for host in sorted(self.cluster.hosts)
            ]
        )


def grouped(lines: list[tuple[str, str]]) -> list[str]:
    """One line for all whose texts are equal, in the order of the first of each."""
    texts = dict.fromkeys(text for _, text in lines)
    return [joined(name for name, other in lines if other == text) + text for text in texts]


def shown_change_of(change: tuple[bytes, bytes | None]) -> str:
    key, cell = change
    return f"{keys.decode(key)!s}={'gone' if cell is None else decoded_value(bytes(8) + cell)}"


def shown_time(clock: int) -> str:
    return f"{clock // SECOND}s+{clock % SECOND}"
