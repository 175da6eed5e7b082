"""PostgreSQL and RabbitMQ for `make demo`, `make up` and the tests, whatever the machine offers.

`installed` runs private servers from the machine's own binaries, `compose` runs the stack in Docker; `engine` tells
which of the two a machine gets. Both are development servers: their data goes when they stop.
"""

from ops.local_stack.engine import Kind, kind
from ops.local_stack.installed import installed_servers
from ops.local_stack.servers import Server, Servers, StackError, WrongSetting

__all__ = ["Kind", "Server", "Servers", "StackError", "WrongSetting", "installed_servers", "kind"]
