"""The handlers, a module a noun."""
