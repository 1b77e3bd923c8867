"""``status`` and ``verify`` of an open store."""

from __future__ import annotations

from typing import Any

from kvstore.engine.reading_store import ReadingStore
from kvstore.engine.store import Store, WritingStore
from kvstore.engine.upkeep.verify import verify as verify_environment
from kvstore.errors import Failed
from kvstore.execution.procedure_context import Owns


def status(store: Store) -> dict[str, Any]:
    """Return the state of the store as a JSON-able dict; ``healthy`` is False if there are problems."""
    manifest, record = store.manifest, store.record
    found: dict[str, Any] = {
        "path": store.directory.path,
        "healthy": True,
        "readonly": not isinstance(store, WritingStore),
        "uuid": manifest.uuid,
        "format": manifest.format,
        "shards": manifest.shards,
        "replicas": manifest.replicas,
        "placement": manifest.placement,
        "epoch": record.epoch,
        "view": record.view,
        "learner": record.view % manifest.replicas,
        "views": (views := _views(store)),
        "learners": {shard: view % manifest.replicas for shard, view in views.items()},
        "records": _record_count(store),
        "bytes": {str(number): env.size_bytes() for number, env in sorted(store.environments.items())},
        "snapshots": {"open": store.readers.open_count, "oldest_age": store.readers.oldest_age},
        "repaired": list(store.repaired),
        "problems": [],
    }
    if isinstance(store, WritingStore):
        found |= _writing(store)
    elif isinstance(store, ReadingStore):
        found["problems"] = [str(damage.args[0]) for damage in store.damage.values()]
    found["healthy"] = not found["problems"]
    return found


def _views(store: Store) -> dict[str, int]:
    """Return the view of each shard. A read-only store reads it from the coordinator's record, because
    the views of all shards change together."""
    if isinstance(store, WritingStore):
        replicas = store.cluster.learner.replicas
        return {str(replica.address.shard): int(replica.record.view) for replica in replicas}
    return {str(shard): int(store.record.view) for shard in range(store.manifest.shards)}


def _record_count(store: Store) -> int | None:
    """Return the number of records; None if the learner failed and the store cannot be read."""
    try:
        return store.readers.record_count()
    except Failed:
        return None


def _writing(store: WritingStore) -> dict[str, Any]:
    cluster = store.cluster
    problems = [
        f"replica {number} failed: {why}; replica {cluster.learner.number} is the learner now"
        for number, why in cluster.failed_learners.items()
    ]
    problems += [
        f"replica {follower.host.number} failed: {follower.failure}"
        for follower in cluster.followers
        if follower.failure is not None
    ]
    if cluster.failure is not None:
        problems.append(f"writes are refused: {cluster.failure}")
    problems += [f"replica {number}: {why.args[0]}" for number, why in cluster.opened.found.lost.items()]
    logs = {
        str(replica.address.shard): {
            "first": int(replica.log.first),
            "last": int(replica.last_slot),
            "executed": int(replica.record.resolved_end),
        }
        for replica in cluster.learner.replicas
    }
    return {
        "durability": store.options.durability,
        "logs": logs,
        "lag": cluster.lag(),
        "dropped": dict(cluster.learner.dropped),
        "procedures_failed": store.procedures_failed,
        "wakeups": {"by_timer": store.commits.woken_by_timer + store.commits_seen.woken_by_timer},
        "problems": problems,
    }


def verify(store: Store, owns: Owns) -> dict[str, Any]:
    """Check every open environment that has not failed; return ``{"ok", "records", "problems"}``."""
    records, problems = 0, []
    for _, environment in sorted(store.environments.items()):
        with store.readers.reading():
            if environment.failure is not None:
                continue  # status() reports its failure
            count, found = verify_environment(environment, store.manifest, owns)
        records += count
        problems += found
    if isinstance(store, ReadingStore):
        problems += [str(damage.args[0]) for damage in store.damage.values()]
    return {"ok": not problems, "records": records, "problems": problems}
