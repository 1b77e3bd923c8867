"""The command line in a process that may take so much memory of its own: ``within_memory BYTES COMMAND ...``.

The limit counts what the process allocates, not the pages of the store's file that the system maps for it
and takes back when they are wanted elsewhere.
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
