"""Make mutants of the rules and say which survive: python -m tests.mutants [sql|python]."""

from __future__ import annotations

import importlib
import importlib.util
import sys

KINDS = ("sql", "python")


def main(words: list[str]) -> int:
    """Each kind that is there, or the one named; 1 if one of them has too many survivors."""
    there = [kind for kind in KINDS if importlib.util.find_spec(f"tests.mutants.{kind}")]
    wanted = [kind for kind in there if kind in (words or there)]
    modules = [importlib.import_module(f"tests.mutants.{kind}") for kind in wanted]
    return max(int(module.main()) for module in modules)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
