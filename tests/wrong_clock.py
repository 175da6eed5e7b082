"""A process whose own clock is wrong, and can be set while it runs: Debian's package faketime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_LIBRARY = "usr/lib/*/faketime/libfaketime.so.1"


@dataclass(frozen=True)
class WrongClock:
    """The clock of whoever is started with its `environment`; what no step of a real clock moves stays right."""

    library: Path
    file: Path

    @classmethod
    def made_in(cls, folder: Path) -> Self | None:
        """None where the package is missing."""
        library = next(iter(sorted(Path("/").glob(_LIBRARY))), None)
        return None if library is None else cls(library, folder / "clock")

    def set(self, step: str) -> None:
        """To our time and `step` more, "+1h" or "-1h" for example."""
        self.file.write_text(step)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


MakeClock = Callable[[str], WrongClock]
