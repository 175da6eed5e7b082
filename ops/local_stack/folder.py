"""Temporary folders of one run, for servers' data or logs; a lock in each tells a live run's from a dead one's."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.local_stack.program import REPOSITORY

# Where the runs of this checkout leave their locks.
RUNS = REPOSITORY / ".stack"
FOLDER_PREFIX = "voltline-run-"
LOCK_NAME = "lock"


def new_folder() -> Path:
    """A new folder, for `locked`."""
    return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Holds the folder's lock, which the kernel frees however this process ends; removes the folder at the end."""
    unready = folder / f"{LOCK_NAME}.new"
    lock = os.open(unready, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Only now may others see it: a lock file that nobody holds means a dead run.
    unready.rename(folder / LOCK_NAME)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep_dead_folders() -> None:
    """Removes what killed runs left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        try:
            lock = os.open(folder / LOCK_NAME, os.O_RDWR)
        except OSError:
            continue  # another user's, or not locked yet
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # in use
        finally:
            os.close(lock)
