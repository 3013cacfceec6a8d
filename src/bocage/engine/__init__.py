"""What runs a VM."""
