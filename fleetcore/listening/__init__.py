"""Accepting connections, the same for every listener: deadlines, limits, and a share of the process's descriptors."""
