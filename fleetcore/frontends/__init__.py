"""Front ends: what calls become in the library, remote clients, control socket, command line and documents."""
