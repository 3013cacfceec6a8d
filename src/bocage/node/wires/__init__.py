"""What carries the NICs of VMs: networks of this host, and who has what of them."""
