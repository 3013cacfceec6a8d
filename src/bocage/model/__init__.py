"""What exists, without any I/O: VM, host, storage, volume, image, network, task, event, alarm."""
