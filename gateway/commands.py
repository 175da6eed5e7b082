"""All commands that REST takes. `COMMANDS` drives the endpoint and the documentation alike; a new one is an entry."""

from typing import Final

from gateway.callback_commands import CALLBACK_COMMANDS
from gateway.directory_commands import DIRECTORY_COMMANDS
from gateway.payment_commands import PAYMENT_COMMANDS
from gateway.session_commands import SESSION_COMMANDS

COMMANDS: Final = (*SESSION_COMMANDS, *PAYMENT_COMMANDS, *DIRECTORY_COMMANDS, *CALLBACK_COMMANDS)
