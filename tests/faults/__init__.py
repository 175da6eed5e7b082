"""The fault suite: real processes under load, real faults, and an auditor that counts what became of every call."""
