"""The checklist of a deployment: each line measures one thing at a live endpoint, and says what to do about it."""
