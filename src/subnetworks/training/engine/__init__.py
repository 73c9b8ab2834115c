"""verl's engine, made to train within a mask, and on a CPU."""
