"""The manifest: a store's identity and shape, fixed at creation and equal in all its environments.

Each environment holds two copies: a readable side file, so that the format is known before LMDB
opens anything, and a record, from which a damaged side file is written again.
"""

from __future__ import annotations

import msgspec

from kvstore.errors import WrongShape
from kvstore.types import RegionId

FORMAT = 1
"""The on-disk format this version reads and writes (docs/storage-format.md)."""
LMDB_FORMAT = "0.9"


class RegionIdentity(msgspec.Struct, frozen=True):
    """The identity of a region: its name, the sorted names of all regions, and the name of their world."""

    name: str
    names: tuple[str, ...]
    world: str

    @property
    def number(self) -> RegionId:
        return RegionId(self.names.index(self.name))


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The store's identity and shape. ``region`` is None for a store outside a world."""

    format: int = FORMAT
    lmdb: str = LMDB_FORMAT
    uuid: str
    shards: int
    replicas: int
    placement: int | None = None
    idempotency_days: float = 7
    region: RegionIdentity | None = None

    def check_shape(self, path: str, **wanted: int | None) -> None:
        """Raise ``WrongShape`` for the first argument that is not None and differs from the manifest."""
        for name, value in wanted.items():
            found = getattr(self, name)
            if value is not None and value != found:
                message = f"{path} was created with {name}={found}, not {value}"
                raise WrongShape(message, path=path, name=name, found=found, expected=value)


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Manifest).decode
