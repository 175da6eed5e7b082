"""Takes events from the queue and sends each to its callback URL until it is delivered or visibly failed."""
