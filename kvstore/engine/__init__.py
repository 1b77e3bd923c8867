"""One process makes groups of requests durable: the in-process driver of the protocol's roles."""
