"""The pages that a driver sees: the sandbox's pay page, and where a provider sends people back to. Pure.

They load nothing, need no script, and show only what is escaped.
"""

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from html import escape
from string import Template
from typing import Final

from shared.pricing import currency_unit

# The session worker takes an event within some 50 ms.
REFRESH_S: Final = 1

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #f3f5f4; --card: #fff; --ink: #14211c; --soft: #586a62; --line: #dbe2de;
  --leaf: #0b7a4b; --on-leaf: #fff; --warn: #a33a2a; }
@media (prefers-color-scheme: dark) { :root { --paper: #0e1412; --card: #18211d; --ink: #e9f0ec; --soft: #9db0a6;
  --line: #2c3a34; --leaf: #3ecf8e; --on-leaf: #06180f; --warn: #ff9d8a; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; min-height: 100vh;
  min-height: 100dvh; display: grid; place-items: center; padding: 1rem; }
main { background: var(--card); border: 1px solid var(--line); border-radius: 1rem; width: 100%; max-width: 26rem;
  padding: 2rem 1.5rem 1.5rem; text-align: center; overflow-wrap: anywhere; }
.brand { color: var(--soft); font-size: .875rem; font-weight: 600; letter-spacing: .08em; text-transform: uppercase; }
.amount { font-size: clamp(1.75rem, 9vw, 3rem); font-weight: 700; line-height: 1.2; margin-top: 1.25rem;
  font-variant-numeric: tabular-nums; }
.amount small { font-size: .45em; font-weight: 600; color: var(--soft); }
.what, .until { color: var(--soft); }
.until { font-size: .875rem; margin-top: .75rem; }
h1 { font-size: 1.375rem; margin-top: 1.5rem; }
h1.good { color: var(--leaf); }
h1.bad { color: var(--warn); }
h1 + p { margin-top: .25rem; }
form { display: grid; gap: .75rem; margin-top: 1.75rem; }
button { font: inherit; font-weight: 600; padding: .8rem 1rem; min-height: 3rem; border-radius: .75rem; cursor: pointer;
  border: 1px solid var(--soft); background: transparent; color: inherit; }
button.pay { background: var(--leaf); border-color: var(--leaf); color: var(--on-leaf); }
button:focus-visible, a:focus-visible { outline: 3px solid var(--leaf); outline-offset: 2px; }
a { color: var(--leaf); }
.note { border-top: 1px solid var(--line); color: var(--soft); font-size: .875rem; margin-top: 1.75rem;
  padding-top: 1rem; }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
PAGE_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # The address of the page is all that it takes to pay.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex",
}

_PAGE: Final = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
$head<title>$title</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<main>
<p class="brand">Voltline</p>
$content
</main>
</body>
</html>
""")
_DEBT: Final = Template("""<p class="amount">$amount <small>$currency</small></p>
<p class="what">$description</p>
$state
<p class="note">This is a sandbox: no money moves.</p>""")
_OPEN: Final = Template("""<form method="post">
<button class="pay" name="action" value="pay">Pay $amount $currency</button>
<button name="action" value="decline">Decline</button>
</form>
<p class="until">Open until $until UTC</p>""")
_SENT: Final = """<h1>Being processed …</h1>
<p class="what">This page shows the result by itself. <a href="?">Back to the payment</a></p>"""
_PAID: Final = """<h1 class="good">✓ Paid</h1>
<p class="what">Thank you. You can close this page.</p>"""
_DECLINED: Final = """<h1 class="bad">Declined</h1>
<p class="what">Nothing was paid. This link takes no other payment.</p>"""
_EXPIRED: Final = """<h1 class="bad">Expired</h1>
<p class="what">This link can no longer be paid. Ask for another one.</p>"""
_UNKNOWN: Final = """<h1 class="bad">No such payment</h1>
<p class="what">Nothing is to be paid at this address. Is the link complete?</p>"""
# Who has paid and who has turned back come to the same page.
_RETURN: Final = """<h1>You can close this page</h1>
<p class="what">If you have paid, thank you: it counts as soon as the payment provider has confirmed it. If not, the
payment link still works until it expires.</p>"""


class PageState(Enum):
    """What the pay page shows of a link."""

    OPEN = "open"
    SENT = "sent"
    PAID = "paid"
    DECLINED = "declined"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLink:
    """A row of `sandbox_links`."""

    id: str
    description: str
    amount_minor: int
    currency: str
    status: str
    expires_at: datetime

    def state(self, now: datetime, *, is_sent: bool = False) -> PageState:
        """Return what is shown now; `is_sent` is a driver who has pressed a button already."""
        state = PageState(self.status)
        if state is not PageState.OPEN:
            return state
        # The session worker writes down that a link has expired when it next looks, which may be later.
        if now >= self.expires_at:
            return PageState.EXPIRED
        return PageState.SENT if is_sent else state


def pay_page(link: SandboxLink, state: PageState) -> str:
    """Return the page of a link. One that was sent loads itself again until there is a result."""
    amount = format(Decimal(link.amount_minor) * currency_unit(link.currency), "f")
    debt = {"amount": amount, "currency": escape(link.currency)}
    states = {
        PageState.OPEN: _OPEN.substitute(debt, until=f"{link.expires_at.astimezone(UTC):%Y-%m-%d %H:%M}"),
        PageState.SENT: _SENT,
        PageState.PAID: _PAID,
        PageState.DECLINED: _DECLINED,
        PageState.EXPIRED: _EXPIRED,
    }
    content = _DEBT.substitute(debt, description=escape(link.description), state=states[state])
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_S}">\n' if state is PageState.SENT else ""
    return _page(f"Pay {amount} {debt['currency']}", content, head=refresh)


def unknown_page() -> str:
    """Return the page of a link that there is not."""
    return _page("No such payment", _UNKNOWN)


def return_page() -> str:
    """Return the page where a provider's checkout sends people back to, whatever came of it."""
    return _page("You can close this page", _RETURN)


def _page(title: str, content: str, *, head: str = "") -> str:
    return _PAGE.substitute(title=title, style=_STYLE, content=content, head=head)
