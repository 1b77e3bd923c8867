"""The deterministic execution of transactions on the tables of a shard."""
