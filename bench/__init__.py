"""Measurements. A timing is a ratio within one run: machines differ, and this one differs from itself."""
