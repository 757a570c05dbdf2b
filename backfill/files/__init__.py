"""A run's files: plan, calls, errors, receipts, rollback.sql."""
