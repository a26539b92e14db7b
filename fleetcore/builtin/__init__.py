"""The defaults, written as plugins: they see no more of the core than anybody else's do."""
