"""Absorbing-state discrete diffusion over a sample: schedule, corruption, loss."""
