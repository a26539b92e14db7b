"""The data path, one module per step: admit → decode → validate → store → acknowledge → detect → notify → mirror.

The steps up to the acknowledgement run per batch; simple messages take the fast path, which fills the same columns.
The last three are consumers that read stored data from a cursor: the acknowledgement does not wait for them, and a
crash in between skips nothing.
"""
