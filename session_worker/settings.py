"""The session worker's settings."""

from shared.settings import Port, Settings


class SessionWorkerSettings(Settings):
    """What `python -m session_worker` reads from the environment."""

    session_worker_http_port: Port = 3001
