"""Training: packing documents into rows, and supervised fine-tuning on them."""
