"""What every test gets: Hypothesis without wall-clock limits, and the same examples on each CI run."""

from __future__ import annotations

import os

from hypothesis import settings

# A slow moment of the machine is no failure: no deadline. On CI the examples are the same each time, so
# that a run which turns red was turned red by the change; by hand they differ, so that new ones are tried.
settings.register_profile("by-hand", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "by-hand")
