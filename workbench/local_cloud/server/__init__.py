"""How clients reach the cloud: the gRPC server, the HTTP routes, and the check of who may call."""
