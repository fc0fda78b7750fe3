"""Training: reading packed cases, the loop, checkpoints, devices."""
