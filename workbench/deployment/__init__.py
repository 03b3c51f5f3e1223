"""Deploying the endpoint, and what is deployed."""
