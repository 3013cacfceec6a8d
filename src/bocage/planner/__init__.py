"""Pure decisions: a snapshot of the world in, actions with reasons out."""
