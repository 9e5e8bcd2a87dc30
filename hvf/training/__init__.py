"""Training: what every training shares: CUDA graphs, long trainings with accelerate, small ones on one device."""
