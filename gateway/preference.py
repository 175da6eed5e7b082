"""`Prefer: wait=N` (RFC 7240, section 4.3): how long a caller would rather wait for the outcome."""

import re
from collections.abc import Iterable

# A caller who would wait longer is better served by the callback.
MOST_WAIT_S = 30
# Preferences that anybody has are shorter; a longer header is ignored, as any preference may be.
MAX_PREFER_BYTES = 512

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[^"\\]|\\.)*"'
# A quote that never closes is part of its element, which is then garbage.
_ELEMENT = re.compile(rb'(?:[^,"]|%b|")+' % _QUOTED)
_PREFERENCE = re.compile(rb"[ \t]*(%b)(?:[ \t]*=[ \t]*(%b|%b))?[ \t]*(?:;.*)?" % (_TOKEN, _TOKEN, _QUOTED), re.DOTALL)
_DELTA_SECONDS = re.compile(rb"[0-9]+")


def preferred_wait_s(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the seconds of the first `wait`, 30 at the most; 0 where there is none, or none that makes sense.

    The preferences of all `Prefer` headers count as one list; names are case-insensitive, a value may be quoted.
    """
    prefer = b",".join(value for name, value in headers if name == b"prefer")
    if len(prefer) > MAX_PREFER_BYTES:
        return 0
    for element in _ELEMENT.findall(prefer):
        preference = _PREFERENCE.fullmatch(element)
        if preference is not None and preference[1].lower() == b"wait":
            value = (preference[2] or b"").strip(b'"')
            return min(int(value), MOST_WAIT_S) if _DELTA_SECONDS.fullmatch(value) else 0
    return 0
