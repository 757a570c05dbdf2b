"""Targets: their declaration, the SQL made from it, the migrations."""
