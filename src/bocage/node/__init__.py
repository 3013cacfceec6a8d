"""One host's agent: reconciles what the store wants with what runs here."""
