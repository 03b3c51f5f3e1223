"""The model gateway: the only holder of the model's key, between sandboxes and the model's service.

It knows nothing of Modal: `create_gateway` makes an ASGI app from settings. A sandbox shows its run's token, the
gateway checks it, bounds what the run may ask and spend, puts the real key in its place, and lets the answer stream
through. It can record what was said, and say it again without any service.

The endpoint reads `recording` alone; so nothing is imported here, and its containers start without the web client.
"""
