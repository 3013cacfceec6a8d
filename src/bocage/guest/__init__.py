"""What a guest is given and asked: images built from packages, seeds, the guest agent."""
