"""The endpoints: commands, reads, and the documentation."""
