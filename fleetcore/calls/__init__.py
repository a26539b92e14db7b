"""Operators' calls: what an operator can do with a fleet, one typed function per call, one module per noun.

Every front end is derived from these functions: library, clients, control socket, HTTP API, command line, reference.
"""
