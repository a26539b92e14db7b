"""What turns a call into something else: library, remote client, control socket, command line, documents."""
