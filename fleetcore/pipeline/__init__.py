"""The data path, a module a step: receive → decode → validate → store (then acknowledge) → detect → notify → mirror.

The first four run per batch, between a message's arrival and its acknowledgement. The last three are cursor consumers
of what was stored: the acknowledgement does not wait for them, and a crash in between skips nothing.
"""
