"""The session worker's settings."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from session_worker.apply import Policy
from session_worker.authorize import Authorization
from shared.settings import HttpUrl, LowerCase, Port, Settings


class SessionWorkerSettings(Settings):
    """What `python -m session_worker` reads from the environment."""

    session_worker_http_port: Port = 3001
    authorization: Annotated[Authorization, LowerCase] = Authorization.OPEN
    authorization_timeout_s: Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)] = 10
    authorization_url: Annotated[HttpUrl | None, Field(validate_default=True)] = None

    @field_validator("authorization_url")
    @classmethod
    def _asked_where(cls, url: HttpUrl | None, info: ValidationInfo) -> HttpUrl | None:
        if url is None and info.data.get("authorization") is Authorization.HTTP:
            raise ValueError("is required with AUTHORIZATION=http")
        return url

    def policy(self) -> Policy:
        """Return how requests are judged."""
        return Policy(self.authorization, timedelta(seconds=self.authorization_timeout_s))
