"""Learnt models: fusions of image features (HVF and others), brain encoders, and the mini architectures."""
