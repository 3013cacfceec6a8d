"""Where disks and images live."""
