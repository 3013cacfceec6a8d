"""The work of the one that leads: which host a VM lives on."""
