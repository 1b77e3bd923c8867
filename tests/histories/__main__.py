"""``python -m tests.histories FILE...``: the verdict on each recorded history, and why.

Ends with 1 when any is a violation, and otherwise with 2 when any could not be decided.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.histories.files import judge
from tests.histories.verdict import Result


def main(paths: Sequence[str]) -> int:
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    verdicts = set()
    for path in paths:
        for promise, result in _judged(Path(path)):
            print(f"{path}: {promise}: {result}")
            print("".join(f"    {line}\n" for line in result.explanation.splitlines()), end="")
            verdicts.add(result.verdict)
    return 1 if "violation" in verdicts else 2 if "unknown" in verdicts else 0


def _judged(path: Path) -> list[tuple[str, Result]]:
    try:
        return judge(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [("a history", Result("unknown", explanation=str(error)))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
