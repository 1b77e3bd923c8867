"""A state that was made wrong by hand, and the assertion that has to see it."""

from __future__ import annotations

import re

import pytest


def broken(label: str, *values: object) -> pytest.RaisesExc[AssertionError]:
    """Expect, within the block, the assertion of this label, whose text has these values, in any order."""
    shown = "".join(rf"(?=.*(?<!\w){re.escape(str(value))}(?!\w))" for value in values)
    return pytest.raises(AssertionError, match=rf"(?s)^{label}: {shown}")
