"""The API: the one way to the project, and what its answers mean."""
