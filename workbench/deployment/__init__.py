"""Deploys the endpoint to a target, and tells what is deployed there."""
