"""What every other room builds on: errors, clock, ids, ports, child processes. Imports no other room."""
