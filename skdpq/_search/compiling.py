"""How Numba compiles the kernels of this wing, and where it keeps them.

All modules with kernels call it; nothing here depends on what a kernel does. Numba keeps what it has compiled in
NUMBA_CACHE_DIR, else beside the source, else in the user's cache directory, and raises an error where it can write to
none of them: a read-only image, a container that runs as another user. Here the system's temporary folder comes next,
and the memory of the process last.

What is compiled beside the source, or in NUMBA_CACHE_DIR, while an image is built is of use to whoever cannot write
there later: their folder begins with a copy of it.
"""

import os
import shutil
import stat
import tempfile
from functools import cache
from pathlib import Path
from uuid import uuid4

import numba


def kernel(function):
    """Compile a function that Python calls: holding no lock, and kept on disk."""
    return _compile(function, {})


def subroutine(function=None, **options):
    """Compile a function that kernels alone call: as `kernel`, without what makes it callable from Python."""
    if function is None:
        return lambda function: subroutine(function, **options)
    return _compile(function, {"no_cpython_wrapper": True} | options)


def _compile(function, options):
    compiled = numba.njit(nogil=True, no_cfunc_wrapper=True, **options)(function)
    try:
        compiled.enable_caching()
    except RuntimeError:
        _keep_in_temporary_folder(compiled)
    if compiled.stats.cache_path is not None:
        _copy_compiled(Path(compiled.stats.cache_path))
    return compiled


def is_compiled(function):
    """Return whether a kernel has been compiled: by this process, or by another whose result is on disk."""
    return bool(function.signatures) or _is_on_disk(function)


@cache
def _is_on_disk(function):
    """Return whether what a kernel compiles to was on disk when this was first asked."""
    if function.stats.cache_path is None:
        return False
    try:
        return bool(function._cache._cache_file._load_index())
    except AttributeError:  # Numba promises neither name: then it is as if it were
        return True


def _keep_in_temporary_folder(compiled):
    """Let Numba keep a function in the temporary folder of this user; in memory where there is none."""
    given, folder = numba.config.CACHE_DIR, _temporary_folder()
    if folder is None:
        return
    numba.config.CACHE_DIR = folder
    try:
        compiled.enable_caching()
    except RuntimeError:
        pass
    finally:
        numba.config.CACHE_DIR = given


@cache
def _temporary_folder():
    """Return a folder that nobody else can write to: what is found there is run. None if there is none."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""  # Windows has a temporary folder for each user
    try:
        folder = Path(tempfile.gettempdir()) / f"skdpq-numba{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        return None
    if user and (found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        return None
    return str(folder)


@cache
def _copy_compiled(folder):
    """Copy what was compiled where Numba would keep it, could it write there, to a folder, unless that is the one."""
    source = (
        Path(numba.config.CACHE_DIR) / folder.name if numba.config.CACHE_DIR else Path(__file__).parent / "__pycache__"
    )
    if source == folder:
        return
    try:
        for index in source.glob("*.nbi"):
            copied = folder / index.name
            if not copied.exists() or copied.stat().st_mtime < index.stat().st_mtime:
                for file in (*source.glob(f"{index.stem}.*.nbc"), index):  # the index last: it names the others
                    part = folder / f"{file.name}.tmp.{uuid4().hex[:16]}"
                    shutil.copyfile(file, part)
                    part.replace(folder / file.name)
    except OSError:
        pass  # what is not there is compiled
