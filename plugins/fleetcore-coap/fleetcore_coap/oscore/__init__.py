"""OSCORE (RFC 8613): protects each message individually, under a key that belongs to a device token.

Needs the extra ``fleetcore-coap[oscore]``; it is imported only if it is configured.
"""
