"""The model gateway: the only holder of the model's key, between sandboxes and the model's service.

It knows nothing of Modal: `create_gateway` makes an ASGI app from settings. A sandbox shows its run's token, the
gateway checks it, bounds what the run may ask and spend, puts the real key in its place, and lets the answer stream
through. It can record what was said, and say it again without any service.
"""

from modal_app.model_gateway.app import create_gateway
from modal_app.model_gateway.recording import Exchange, Replay, dump_exchange, parse_exchange
from modal_app.model_gateway.settings import GatewaySettings, Limits

__all__ = ["Exchange", "GatewaySettings", "Limits", "Replay", "create_gateway", "dump_exchange", "parse_exchange"]
