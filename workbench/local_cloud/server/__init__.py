"""How clients reach the cloud: the gRPC server, the HTTP routes, and who may call."""
