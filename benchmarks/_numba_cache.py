"""Where Numba keeps what it compiles: a folder for each version of the sources, named by their hash.

`_common.py` sets NUMBA_CACHE_DIR to `FOLDER` for benchmarks, and `tests/conftest.py` for tests, before Numba is
imported. Numba by itself compiles a function anew when its own file changes, but not when a function that it calls from
another file does.
"""

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def cache_folder(sources):
    """Return a folder in the user's cache directory for what is compiled from these files."""
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "skdpq-numba" / digest.hexdigest()[:16]


FOLDER = os.environ.get("NUMBA_CACHE_DIR") or str(cache_folder((ROOT / "skdpq/_search").rglob("*.py")))
