"""A bank in several regions of the store: a guided run, and a run on the records of a real bank."""
