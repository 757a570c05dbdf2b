"""A plan or a run as one HTML page."""
