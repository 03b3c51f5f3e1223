"""The model gateway: the only holder of the model's key, between sandboxes and the model's service.

It knows nothing of Modal: `create_gateway` makes an ASGI app from settings. A sandbox sends its run's token. The
gateway checks the token, bounds what the run may ask and spend, puts the real key in the token's place, and streams the
answer back. It can record exchanges, and answer from a recording without asking the service.

Nothing is imported here: the endpoint needs only `recording` and `run_tokens`, and starts without the web client.
"""
