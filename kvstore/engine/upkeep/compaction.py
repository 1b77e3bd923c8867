"""Compaction: each replica's file is rewritten without its free pages, while readers continue.

LMDB gives free pages to later commits, never back to the system. So a file is replaced by a compact copy
of itself, between two groups: writers wait until the copy is made, readers do not. Snapshots stay on the
old file, which is deleted with the last of them.
"""

from __future__ import annotations

from typing import Any

from kvstore.engine.store import WritingStore
from kvstore.errors import Failed


def compact(store: WritingStore) -> dict[str, Any]:
    """Compact every replica; return the bytes before and after, in total and by replica.

    Raises:
        DiskFull: the disk has no room for a copy beside the original; nothing is lost.
        Failed: the store failed earlier, or a replaced file could not be opened.
    """
    sizes: dict[str, dict[str, int]] = {}
    store.commits.exclusively(lambda: _compact_all(store, sizes))
    return {
        "before": sum(size["before"] for size in sizes.values()),
        "after": sum(size["after"] for size in sizes.values()),
        "replicas": sizes,
    }


def _compact_all(store: WritingStore, sizes: dict[str, dict[str, int]]) -> None:
    cluster, directory = store.cluster, store.directory
    if cluster.failure is not None:
        raise Failed(f"the store failed earlier: {cluster.failure}") from cluster.failure
    cluster.pause()
    try:
        for number, host in sorted(cluster.opened.hosts.items()):
            if host.environment.failure is not None:
                continue
            before = host.environment.size_bytes()
            environment = directory.compact(number, host.environment, durability=store.options.durability)
            if environment is not host.environment:
                if host is cluster.learner:
                    store.readers.replace(environment)
                else:
                    host.environment.retire()
                cluster.opened.hosts[number] = cluster.opened.found.host(number, environment)
            sizes[str(number)] = {"before": before, "after": environment.size_bytes()}
    finally:
        cluster.resume()
