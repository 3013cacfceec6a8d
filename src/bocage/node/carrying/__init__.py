"""VMs and images that come and go whole: adopted, imported, exported."""
