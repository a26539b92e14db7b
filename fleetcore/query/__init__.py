"""The fleet query: a syntax tree and its evaluation under three-valued logic (docs/reference/query.md)."""
