"""This host's life in its cluster, and which of its VMs it may start: what drives the protocol's machines for it."""
