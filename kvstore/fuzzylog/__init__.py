"""The FuzzyLog (OSDI 2018): causality between regions, as pure state machines."""
