"""The engine drives the protocol's roles in one process: opening, group commit, failover, recovery."""
