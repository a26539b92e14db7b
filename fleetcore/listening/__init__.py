"""Listening: one way in for every listener, with its deadlines, its caps and its share of the process's descriptors."""
