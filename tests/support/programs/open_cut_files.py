"""Truncates a data file to many lengths and opens it: ``open_cut_files FOLDER``.

For each length the folder is copied, and its file truncated, opened for writing and read completely. Prints
a line "LENGTH corrupt", or "LENGTH RECORDS" if it could be opened. A crash ends the process and its output.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kvstore.errors import Corrupt
from kvstore.storage import LmdbEnvironment
from kvstore.storage.soundness import DATA_FILE
from tests.support.media import copy_folder

PAGE = 4096


def outcome(folder: Path) -> str:
    try:
        environment = LmdbEnvironment(folder)
    except Corrupt:
        return "corrupt"
    view = environment.view()
    found = len(view.table(b"tab").scan(b"", b"\xff", limit=1 << 20))
    assert list(view.problems()) == []
    view.close()
    environment.close()
    return str(found)


def main() -> None:
    source = Path(sys.argv[1])
    whole = (source / DATA_FILE).stat().st_size
    around_pages = {at + off for at in range(0, whole + 1, PAGE) for off in (-1, 0, 1, 152, PAGE // 2)}
    for length in sorted(length for length in around_pages if 0 <= length <= whole):
        folder = copy_folder(source, source.with_name("cut"))
        with (folder / DATA_FILE).open("r+b") as file:
            file.truncate(length)
        print(length, outcome(folder), flush=True)


if __name__ == "__main__":
    main()
