"""`python -m preprocessing.task --infer_schema FILE`: a sample of a log to a commented schema to start from."""
