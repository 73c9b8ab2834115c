"""What is minimised: losses, and what estimates them from sampled answers."""
