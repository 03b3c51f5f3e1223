"""Apps: their functions' definitions, their deployments and their logs."""
