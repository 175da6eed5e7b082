"""A circuit breaker, pure: after some failures in a row nobody asks for a while, then one does, to find out."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Breaker:
    """Times are seconds of any one clock."""

    failures_to_open: int
    open_for_s: float
    _failures: int = field(default=0, init=False)
    _open_until_s: float | None = field(default=None, init=False)
    _is_probing: bool = field(default=False, init=False)

    def lets_through(self, now_s: float) -> bool:
        """Whether to ask now; while open only a single probe is let through, once its time has come."""
        if self._open_until_s is None:
            return True
        if now_s < self._open_until_s or self._is_probing:
            return False
        self._is_probing = True
        return True

    def succeeded(self) -> None:
        """The other side answered."""
        self._failures, self._open_until_s, self._is_probing = 0, None, False

    def abandoned(self) -> None:
        """Nothing was learned of the other side."""
        self._is_probing = False

    def failed(self, now_s: float) -> None:
        """The other side did not answer, or is broken."""
        self._failures += 1
        self._is_probing = False
        if self._failures >= self.failures_to_open:
            self._open_until_s = now_s + self.open_for_s
