"""Faults on purpose: every case must end as a run ends that nobody disturbed."""
