"""The house rules that a machine can check: who may import what, how big a file may grow, what names say nothing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = ("gateway", "session_worker", "callback_worker")
PACKAGES = (*PROCESSES, "shared", "ops")
MOST_LINES = 400
EMPTY_WORDS = {"utils", "helpers", "common", "base", "manager", "service", "processor", "misc"}

# Library -> the only places that may import it.
ONLY_IN = {
    "aio_pika": ("shared/broker/", "ops/broker_setup.py", "ops/provision.py"),
    "aiormq": ("shared/broker/",),
    "pamqp": ("shared/broker/",),
    "fastapi": ("gateway/",),
    "aiohttp": ("callback_worker/", "ops/receiver.py", "ops/demo_load.py"),
    "cryptography": ("shared/signing_pair.py",),
    "httpx": ("ops/", "session_worker/authorizer.py"),
    "stripe": ("session_worker/payments/stripe_provider.py", "gateway/webhooks.py"),
}
# Pure modules -> libraries of input and output that they must not reach for.
PURE = (
    "session_worker/session.py",
    "session_worker/decide.py",
    "session_worker/authorize.py",
    "session_worker/completion.py",
    "session_worker/breaker.py",
    "session_worker/situations.py",
    "session_worker/reasons.py",
    "session_worker/payments/money.py",
    "session_worker/payments/minimums.py",
    "session_worker/payments/payment.py",
    "session_worker/payments/rules.py",
    "session_worker/payments/steps.py",
    "session_worker/payments/learning.py",
    "session_worker/payments/decide.py",
    "session_worker/payments/notes.py",
    "session_worker/payments/stripe_objects.py",
    "shared/callback_url.py",
    "shared/meter.py",
    "shared/pricing.py",
    "shared/retention/age.py",
    "callback_worker/addresses.py",
    "callback_worker/breaker.py",
    "callback_worker/delivery.py",
    "callback_worker/pace.py",
    "callback_worker/ports.py",
    "callback_worker/signature.py",
)
INPUT_OUTPUT = {"asyncio", "sqlalchemy", "asyncpg", "aiohttp", "httpx", "aio_pika", "socket", "os", "time", "random"}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, by its full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_a_process_imports_shared_and_itself_and_shared_imports_no_process(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = {"ops": {"ops", "shared"}, "shared": {"shared"}}.get(package, {package, "shared"})
    ours = {name.split(".")[0] for name in imports(path)} & set(PACKAGES)
    assert ours <= allowed


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_a_library_is_imported_only_where_its_room_is(path: Path) -> None:
    for library in {name.split(".")[0] for name in imports(path)} & ONLY_IN.keys():
        assert name_of(path).startswith(ONLY_IN[library]), f"{name_of(path)} imports {library}"


@pytest.mark.parametrize("path", [path for path in sources() if "_worker/" in name_of(path)], ids=name_of)
def test_a_worker_never_asks_its_own_clock(path: Path) -> None:
    """What it leases and decides is by the database's; `time.monotonic` is for how long something takes."""
    assert "shared.clock" not in set(imports(path))
    assert not re.search(r"\b(datetime\.(now|utcnow|today)|time\.time(_ns)?)\(", path.read_text())


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_does_no_input_or_output(name: str) -> None:
    assert not {module.split(".")[0] for module in imports(ROOT / name)} & INPUT_OUTPUT


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_a_file_is_short_and_its_name_says_something(path: Path) -> None:
    assert path.stem not in EMPTY_WORDS
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_every_module_says_what_it_promises(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
