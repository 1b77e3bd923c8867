"""Tests of the engine: threads, durability, crashes, replicas, opening and closing, upkeep."""
