"""pygal, which draws the charts of a page, without what it leaves behind. Needs the extra `page`.

It leaves a finder for its plugins, of a kind that Python 3.12 no longer asks. In older versions
every later import in the program of what is not there would warn of it. So nothing else is
imported before it is gone.
"""

from __future__ import annotations

import sys

import pygal
from pygal.style import Style

sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "PluginImportFixer"]

__all__ = ["Style", "pygal"]
