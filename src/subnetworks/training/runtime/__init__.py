"""A run from its settings to its checkpoint: processes, state, log."""
