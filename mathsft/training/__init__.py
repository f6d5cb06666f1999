"""Training: one trainer for every objective, and checkpoints that can be trusted."""
