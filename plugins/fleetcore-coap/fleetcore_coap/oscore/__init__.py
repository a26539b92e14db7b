"""OSCORE (RFC 8613): each message is protected by itself, under a key that a device token stands for.

Needs the extra ``fleetcore-coap[oscore]``; nothing here is imported where it is not asked for.
"""
