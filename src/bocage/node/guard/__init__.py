"""The guard: a small process without a network, which lets this host's VMs run for as long as the host is confirmed.

Only VMs that another host may start are its business. It outlives the daemon, as the VMs do.
"""
