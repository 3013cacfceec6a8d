"""Where resources are remembered: one contract, engines behind it."""
