"""How a NIC reaches others: user-mode, NAT bridge, isolated bridge."""
