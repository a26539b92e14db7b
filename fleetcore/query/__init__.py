"""The fleet query: a syntax tree and its evaluation under three-valued logic (CONTRACT.md §6)."""
