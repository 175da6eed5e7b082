"""What two or more processes use: the wire, the broker, the database, settings, logs. It imports no process."""
