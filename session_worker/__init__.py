"""Applies commands to charging sessions and emits what happened, exactly once each."""
