"""The gRPC handlers of the local cloud, one module per noun of the protocol."""
