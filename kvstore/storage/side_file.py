"""Small files beside the data: replaced as a whole, durably, and checked when read.

A side file is one JSON object with a ``crc`` of its other fields. It is written under a temporary name,
synced and renamed, and the folder is synced, so a crash leaves either the old file or the new file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from zlib import crc32


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace the file durably."""
    body = json.dumps(content, sort_keys=True)
    sealed = json.dumps({"crc": crc32(body.encode()), **content}, sort_keys=True, indent=1) + "\n"
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w") as file:
        file.write(sealed)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def read(path: Path) -> dict[str, Any] | None:
    """Return the content, or None when the file is missing or does not match its checksum."""
    content = read_unchecked(path)
    crc = content.pop("crc", None)
    return content if crc == crc32(json.dumps(content, sort_keys=True).encode()) else None


def read_unchecked(path: Path) -> dict[str, Any]:
    """Return the content and its ``crc`` unchecked; empty if the file is missing or holds no JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:
        return {}  # damaged: the missing checksum tells the caller
    return content if isinstance(content, dict) else {}


def remove(path: Path) -> None:
    """Remove the file durably, if it exists."""
    if path.exists():
        path.unlink()
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
