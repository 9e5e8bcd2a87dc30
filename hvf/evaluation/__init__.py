"""Evaluation: scores to ranks, pictures to figures, and the statistics beside them."""
