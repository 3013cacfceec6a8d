"""Where a VM lies: its directory, its disks, and the room for them."""
