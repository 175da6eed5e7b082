"""Which ports a callback may go to: the web's own, and those above 1023 where no service of another kind is at home.

A callback is a POST that a stranger aims. Many services take one for a command, or choke on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MOST = 65_535
WEB = (80, 443)
# Below are the services of the operating system (RFC 6335 §6): mail, name servers, shells, file shares.
FIRST_USER_PORT = 1024

# Services that belong inside a network, and that speak HTTP, or read a line of it as a command, or hold what matters.
INTERNAL_SERVICES = {
    1080: "SOCKS proxy",
    1099: "Java RMI registry",
    1433: "SQL Server",
    1521: "Oracle database",
    1883: "MQTT broker",
    2049: "NFS",
    2181: "ZooKeeper",
    2375: "Docker, without TLS",
    2376: "Docker",
    2377: "Docker Swarm",
    2379: "etcd",
    2380: "etcd, between its members",
    3128: "Squid proxy",
    3260: "iSCSI",
    3306: "MySQL",
    3389: "remote desktop",
    4222: "NATS",
    4369: "Erlang port mapper, of RabbitMQ",
    4646: "Nomad",
    5432: "PostgreSQL",
    5555: "Android debug bridge",
    5601: "Kibana",
    5671: "AMQP with TLS",
    5672: "AMQP",
    5900: "VNC",
    5984: "CouchDB",
    5985: "Windows remote management",
    5986: "Windows remote management with TLS",
    6000: "X11",
    6379: "Redis",
    6432: "PgBouncer",
    6443: "Kubernetes",
    7000: "Cassandra, between its nodes",
    7001: "Cassandra, between its nodes with TLS",
    7077: "Spark",
    7199: "Cassandra's JMX",
    7474: "Neo4j",
    7687: "Neo4j Bolt",
    8086: "InfluxDB",
    8123: "ClickHouse",
    8200: "Vault",
    8300: "Consul, between its servers",
    8500: "Consul",
    8600: "Consul DNS",
    8883: "MQTT broker with TLS",
    9042: "Cassandra",
    9092: "Kafka",
    9100: "Prometheus node exporter, and raw printers",
    9160: "Cassandra Thrift",
    9200: "Elasticsearch",
    9300: "Elasticsearch, between its nodes",
    10250: "Kubernetes kubelet",
    10255: "Kubernetes kubelet, read-only",
    10257: "Kubernetes controller manager",
    10259: "Kubernetes scheduler",
    11211: "memcached",
    15672: "RabbitMQ management",
    25672: "RabbitMQ, between its nodes",
    26257: "CockroachDB",
    26379: "Redis Sentinel",
    27017: "MongoDB",
    27018: "MongoDB shard",
    27019: "MongoDB configuration",
    28015: "RethinkDB",
    33060: "MySQL X protocol",
    50070: "Hadoop name node",
    61613: "STOMP broker",
    61616: "ActiveMQ",
}


@dataclass(frozen=True, slots=True)
class PortPolicy:
    """The ports of the module's docstring, or in their place the ranges that the operator lists."""

    ranges: Sequence[range] | None = None

    def allows(self, port: int) -> bool:
        """Whether a callback may go to the port of an address that the operator does not vouch for."""
        if self.ranges is not None:
            return any(port in each for each in self.ranges)
        return port in WEB or (FIRST_USER_PORT <= port <= MOST and port not in INTERNAL_SERVICES)


def parse_ports(text: str) -> range:
    """Return the ports of `443` or `1024-65535`. Raises ValueError with a sentence."""
    first, dash, last = text.partition("-")
    bounds = (first, last) if dash else (first, first)
    if not all(bound.isascii() and bound.isdigit() and len(bound) <= len(str(MOST)) for bound in bounds):
        raise ValueError("is not a port, or a range such as 1024-65535")
    low, high = map(int, bounds)
    if not 1 <= low <= high <= MOST:
        raise ValueError(f"is not within 1 to {MOST}, the lower port first")
    return range(low, high + 1)
