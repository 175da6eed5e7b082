"""The gateway as a process: how it starts, how it drains, and how several of it share a port."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ops.local_stack.processes import READY_TIMEOUT_S, Name, Process, Processes
from tests.patience import PATIENT, PATIENT_CLIENT_S
from tests.servers import REPOSITORY
from tests.unit.gateway.fakes import BODIES, PATHS
from tests.wire import eventually

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes in /proc")


def run_to_its_end(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=REPOSITORY, env={"PATH": os.environ["PATH"], **environment},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_a_start_with_bad_settings_names_every_fault() -> None:
    """Exit 2, one line each on stderr, no traceback."""
    ran = run_to_its_end(GATEWAY_PORT="x")
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[:2] == ["DATABASE_URL: is required", "AMQP_URL: is required"]
    assert ran.stderr.splitlines()[2].startswith("GATEWAY_PORT: ")
    assert len(ran.stderr.splitlines()) == 3


async def test_sigterm_lets_a_request_in_hand_finish(processes: Processes) -> None:
    """Its answer comes, idle connections are closed, nothing new is taken, and the exit status is 0."""
    gateway = await processes.start(Name.GATEWAY)
    host, port = gateway.url.removeprefix("http://").split(":")
    _, idle = await asyncio.open_connection(host, int(port))
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"chargerId": "CHARGER-001"}'
    writer.write(
        b"POST /api/v1/session/start HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body[:5])
    )
    await writer.drain()
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        await client.get("/livez")
    gateway.signal(signal.SIGTERM)

    async def refuses() -> bool:
        try:
            _, another = await asyncio.open_connection(host, int(port))
        except OSError:
            return True
        another.close()
        return False

    await eventually(refuses)
    writer.write(body[5:])
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert await gateway.stop() == 0
    writer.close()
    idle.close()


async def test_sigterm_ends_a_gateway_whose_broker_is_not_there(processes: Processes) -> None:
    """It starts without a broker, is alive but not ready, and drains all the same."""
    gateway = processes.launch(Name.GATEWAY, AMQP_URL="amqp://guest:guest@127.0.0.1:1/x")
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        await eventually(lambda: _status(client, "/livez", 200), timeout_s=READY_TIMEOUT_S)
        assert await _status(client, "/readyz", 503)
        assert (await client.post(PATHS["start"], json=BODIES["start"])).status_code == 503
    assert await gateway.stop() == 0


async def _status(client: httpx.AsyncClient, path: str, status: int) -> bool:
    try:
        return (await client.get(path)).status_code == status
    except httpx.TransportError:
        return False


def children(gateway: Process) -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()}


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@needs_proc
async def test_a_process_that_dies_is_replaced_and_all_drain_together(processes: Processes) -> None:
    """With GATEWAY_PROCESSES=2 a kill -9 costs one of two for a moment; SIGTERM to the parent exits 0."""
    gateway = await processes.start(Name.GATEWAY, port=None, GATEWAY_PROCESSES="2", **PATIENT)
    first = children(gateway)
    assert len(first) == 2
    os.kill(min(first), signal.SIGKILL)

    async def is_replaced() -> bool:
        return len(children(gateway)) == 2 and min(first) not in children(gateway)

    await eventually(is_replaced)
    assert "gateway_process_died" in gateway.log.read_text()
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENT_CLIENT_S, trust_env=False) as client:
        answer = await client.post(PATHS["start"], json=BODIES["start"])
    assert answer.status_code == 202
    last = children(gateway)
    assert await gateway.stop() == 0
    assert not any(map(is_running, last))


@needs_proc
async def test_no_process_outlives_the_one_that_started_it(processes: Processes) -> None:
    """Killed with -9, it leaves nobody on the port."""
    gateway = await processes.start(Name.GATEWAY, GATEWAY_PROCESSES="2")
    left = children(gateway)
    await gateway.kill()

    async def all_gone() -> bool:
        return not any(map(is_running, left))

    await eventually(all_gone)


def metrics_folder(gateway: Process) -> Path:
    variables = Path(f"/proc/{min(children(gateway))}/environ").read_bytes().split(b"\0")
    (folder,) = [each for each in variables if each.startswith(b"PROMETHEUS_MULTIPROC_DIR=")]
    return Path(folder.partition(b"=")[2].decode())


@needs_proc
async def test_what_a_killed_gateway_left_is_removed_by_the_next_and_nothing_else(
    processes: Processes, tmp_path: Path
) -> None:
    """The folder of their metrics; not that of a gateway that runs, or whose processes still drain."""
    gateways = [
        await processes.start(Name.GATEWAY, port=None, GATEWAY_PROCESSES="2", TMPDIR=str(tmp_path)) for _ in range(2)
    ]
    folder_of = {gateway: metrics_folder(gateway) for gateway in gateways}
    killed, running = gateways
    left = children(killed)
    await killed.kill()

    async def all_gone() -> bool:
        return not any(map(is_running, left))

    await eventually(all_gone)
    for folder in folder_of.values():
        os.utime(folder, (0, 0))
    third = await processes.start(Name.GATEWAY, port=None, GATEWAY_PROCESSES="2", TMPDIR=str(tmp_path))
    folder_of[third] = metrics_folder(third)
    assert [folder_of[each].exists() for each in (killed, running, third)] == [False, True, True]
    assert [await each.stop() for each in (running, third)] == [0, 0]
    assert not any(folder.exists() for folder in folder_of.values())


async def test_metrics_of_several_processes_are_their_sum(processes: Processes) -> None:
    """Whichever answers the scrape speaks for all."""
    gateway = await processes.start(Name.GATEWAY, port=None, GATEWAY_PROCESSES="2", **PATIENT)
    for _ in range(12):
        # A connection each, so that both processes get some.
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENT_CLIENT_S, trust_env=False) as client:
            assert (await client.post(PATHS["start"], json=BODIES["start"])).status_code == 202

    async def are_counted() -> bool:
        # A process counts a request after it has answered, and the other may be asked in between.
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
            text = (await client.get("/metrics")).text
        return {
            'voltline_gateway_requests_total{route="/api/v1/session/start",status="202"} 12.0',
            'voltline_gateway_publishes_total{outcome="confirmed"} 12.0',
        } <= set(text.splitlines())

    await eventually(are_counted)
    # A connection each: both are asked.
    assert all([await are_counted() for _ in range(8)])
    assert await gateway.stop() == 0
