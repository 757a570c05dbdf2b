"""The life of a run: plan, apply, undo."""
