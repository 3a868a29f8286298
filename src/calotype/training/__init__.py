"""Training: objectives, the loop, exact checkpoints and the run folder around them."""
