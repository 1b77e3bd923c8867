"""Types that converge: a key's cells in a region, and how operations and imports change them."""
