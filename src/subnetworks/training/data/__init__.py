"""What runs train on: rows, conversations, rewards."""
