"""The FuzzyLog (OSDI 2018): a log per region, and the causal order between them, as pure state machines."""
