"""Apps: the definitions of their functions, their deployments and their logs."""
