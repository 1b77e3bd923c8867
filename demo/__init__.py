"""A bank in several regions: a guided run, and real records, on the geo mode of the store."""
