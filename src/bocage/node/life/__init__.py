"""One VM's life: its actor, and the steps that bring it from what is to what should be."""
