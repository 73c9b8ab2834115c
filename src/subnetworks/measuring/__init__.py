"""What training changed: updates, their ranks, masks, overlaps."""
