"""Comparing a new log with the training split of a data folder: what changed, and by more than the schema allows?"""
