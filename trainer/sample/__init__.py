"""Samples drawn from a pre-trained model, and a report that compares them with real rows: `python -m trainer.sample`."""
