"""The user that the servers run as: PostgreSQL refuses root, and RabbitMQ has no need of it."""

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

from ops.local_stack.servers import StackError

# The packages make the first; the second is on every system.
ACCOUNT_NAMES = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """A user without rights; None stands for "as we are"."""

    uid: int
    gid: int

    def take_over(self, folder: Path) -> None:
        """Makes `folder` and all that is in it this user's."""
        for path in [folder, *folder.rglob("*")]:
            shutil.chown(path, self.uid, self.gid)


def server_account() -> Account | None:
    """Whom to run servers as: ourselves, or a user without rights where we are root."""
    if os.geteuid() != 0:
        return None
    for name in ACCOUNT_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise StackError(f"root may not run PostgreSQL, and there is no user {' or '.join(ACCOUNT_NAMES)}")
