"""Measurements, run by hand: `python -m tests.bench.NAME`. Nothing here is collected as a test."""
