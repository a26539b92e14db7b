"""The uplink: what a gateway's own fleet and the core tell each other, over one connection that may be cut for days."""
