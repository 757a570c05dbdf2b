"""Find, plan, approve, apply, verify and undo backfills of derived rows in a Supabase project.

bf = backfill.connect()
plan = bf.plan(since="2025-08-01")
print(plan.markdown())          # the run halts here until someone approves it
bf.apply(plan.run_id)
bf.verify(plan.run_id).verdict  # "pass" | "partial" | "fail"
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

logging.getLogger("backfill").addHandler(logging.NullHandler())

__version__: str

if TYPE_CHECKING:
    from backfill.public import *  # noqa: F403 - its __all__ is the one list
    from backfill.public import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        """Look a name up when it is first asked for. What carries the calls takes long to load."""
        if name == "__version__":
            return import_module("importlib.metadata").version("supabase-backfill")
        public = import_module("backfill.public")
        if "__all__" not in globals():
            # All at once: what reads a module's dict, as pdoc does, finds them there.
            globals().update({each: getattr(public, each) for each in (*public.__all__, "__all__")})
        if name in globals():  # a package too, such as errors, which public has loaded
            return globals()[name]
        hint = ": it is a method of connect()" if hasattr(public.AsyncBackfill, name) else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name)

    def __dir__() -> list[str]:
        return sorted({*__getattr__("__all__"), "__version__"})
