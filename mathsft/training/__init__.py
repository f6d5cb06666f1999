"""Training: worked solutions in packed rows, and the multiple-choice objective."""
