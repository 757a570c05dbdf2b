"""Mutants: one change in a function at a time, and whether a test of its rule notices."""
