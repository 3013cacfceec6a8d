"""VMs on QEMU, directly over QMP."""
