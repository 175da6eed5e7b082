"""The broker port: publish many with one outcome each, take a batch, settle it. Only this package speaks AMQP."""
