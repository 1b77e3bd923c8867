"""The network between regions in one process. The links of each pair of regions can be cut and delayed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count

Deliver = Callable[[bytes], None]
Pair = frozenset[str]


class Network:
    """All links of one process. A link delivers in order; it loses messages while it is cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due = threading.Condition(self._lock)
        self._cut: set[Pair] = set()
        self._delays: dict[Pair, float] = {}
        self._receivers: dict[tuple[str, str], Deliver] = {}
        self._later: list[tuple[float, int, tuple[str, str], bytes]] = []
        self._number = count()
        self._closed = False
        self._thread: threading.Thread | None = None

    def link(self, own: str, peer: str) -> NetworkLink:
        """Return the end of the link that belongs to ``own``."""
        return NetworkLink(self, own, peer)

    def cut(self, one: str, other: str) -> None:
        """Lose every message that is sent between the two regions, or is under way."""
        with self._lock:
            self._cut.add(frozenset((one, other)))

    def heal(self, one: str, other: str) -> None:
        with self._lock:
            self._cut.discard(frozenset((one, other)))

    def delay(self, one: str, other: str, seconds: float) -> None:
        """Delay messages between the two regions, in both directions."""
        with self._lock:
            self._delays[frozenset((one, other))] = seconds

    def is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._cut

    def groups(self, names: Iterable[str]) -> list[list[str]]:
        """Return the groups of names that can reach each other, directly or through others."""
        left, groups = list(names), []
        while left:
            group = [left.pop(0)]
            for one in group:
                reached = [other for other in left if not self.is_cut(one, other)]
                group += reached
                left = [other for other in left if other not in reached]
            groups.append(group)
        return groups

    def receive(self, own: str, peer: str, deliver: Deliver) -> None:
        """Pass the messages that ``peer`` sends to ``own`` to this function."""
        with self._lock:
            self._receivers[own, peer] = deliver

    def send(self, own: str, peer: str, message: bytes) -> None:
        """Deliver a message now or after the delay, or lose it."""
        pair = frozenset((own, peer))
        with self._lock:
            if pair in self._cut or self._closed:
                return
            delay = self._delays.get(pair, 0.0)
            if delay:
                self._start()
                due = time.monotonic() + delay
                heappush(self._later, (due, next(self._number), (peer, own), message))
                self._due.notify()
                return
            deliver = self._receivers.get((peer, own))
        if deliver is not None:
            deliver(message)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._carry, name="kvstore-network", daemon=True)
            self._thread.start()

    def _carry(self) -> None:
        while True:
            with self._lock:
                while not self._closed and not (self._later and self._later[0][0] <= time.monotonic()):
                    self._due.wait(max(0.0, self._later[0][0] - time.monotonic()) if self._later else None)
                if self._closed:
                    return
                _, _, ends, message = heappop(self._later)
                is_lost = frozenset(ends) in self._cut
                deliver = self._receivers.get(ends)
            if deliver is not None and not is_lost:
                deliver(message)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._later.clear()
            self._due.notify_all()
        if self._thread is not None:
            self._thread.join()


class NetworkLink:
    """One end of a link (``ports.Link``)."""

    def __init__(self, network: Network, own: str, peer: str) -> None:
        self._network = network
        self._own, self._peer = own, peer
        self._closed = False

    def start(self, deliver: Deliver) -> None:
        self._network.receive(self._own, self._peer, deliver)

    def send(self, message: bytes) -> None:
        if not self._closed:
            self._network.send(self._own, self._peer, message)

    def close(self) -> None:
        self._closed = True
        self._network.receive(self._own, self._peer, _lose)


def _lose(message: bytes) -> None:
    """Discard the message: this end of the link is closed."""
