"""Types that converge: the cells of a key in a region, and what operations and imports do to them."""
