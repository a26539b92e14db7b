"""What an operator can ask of a fleet: one typed function a call, one module a noun.

Every front end is derived from these functions: library, clients, control socket, HTTP API, command line, reference.
"""
