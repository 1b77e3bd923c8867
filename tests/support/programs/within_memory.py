"""Runs the command line with limited memory: ``within_memory BYTES COMMAND ...``.

The limit counts the memory that the process allocates, not the mapped pages of the store's file, which the
system reclaims when it needs them.
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

from kvstore.cli.app import main

if __name__ == "__main__":
    found = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    limit = int(found.group(1)) * 1024 + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    raise SystemExit(main(sys.argv[2:]))
