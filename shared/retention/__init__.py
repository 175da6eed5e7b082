"""What is kept for how long, and how the rest goes: in small batches, beside everything else.

The processes purge their own tables with it, `python -m ops maintain` all of them.
docs/decisions/0010-what-is-purged-and-what-never.md says why.
"""
