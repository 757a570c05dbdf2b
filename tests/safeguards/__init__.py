"""Safeguards: what happens without each of them, so that none stands there for nothing."""
