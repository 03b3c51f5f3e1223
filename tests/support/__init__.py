"""What tests share that is no fixture: processes, servers, commands, the order in which tests run."""
