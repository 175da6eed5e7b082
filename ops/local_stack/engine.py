"""Decides between a Docker engine and the installed binaries."""

import os
import shutil
import subprocess
from enum import StrEnum

from ops.local_stack.servers import StackError, WrongSetting

# A healthy engine answers in well under a second; a wedged one must not hold up `make demo`.
ENGINE_ANSWER_TIMEOUT_S = 10


class Kind(StrEnum):
    """Where the servers come from."""

    DOCKER = "docker"
    INSTALLED = "installed"


def kind() -> Kind:
    """Docker where an engine answers, else the installed binaries; the variable `LOCAL_STACK` overrides."""
    wanted = os.environ.get("LOCAL_STACK", "").strip().lower()
    if not wanted:
        return Kind.DOCKER if engine_answers() else Kind.INSTALLED
    if wanted not in set(Kind):
        raise WrongSetting(f"LOCAL_STACK is {wanted!r}: it may be 'docker' or 'installed'")
    if wanted == Kind.DOCKER and not engine_answers():
        raise StackError("LOCAL_STACK is 'docker', but no Docker engine answers `docker info`")
    return Kind(wanted)


def engine_answers() -> bool:
    """Whether `docker info` reaches an engine (the client alone says nothing)."""
    if shutil.which("docker") is None:
        return False
    try:
        answer = subprocess.run(
            ["docker", "info"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=ENGINE_ANSWER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return answer.returncode == 0
