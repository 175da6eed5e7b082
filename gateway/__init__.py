"""The gateway: REST in front of the queue. It validates, publishes with confirms, acknowledges; it holds no rule."""
