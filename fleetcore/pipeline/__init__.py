"""The data path, a module a step: admit → decode → validate → store → acknowledge → detect → notify → mirror.

The steps up to the acknowledgement run per batch; one that needs no judgement takes the quick lane through them, which
ends in the same columns. The last three are cursor consumers
of what was stored: the acknowledgement does not wait for them, and a crash in between skips nothing.
"""
