"""Functions: their containers, calls with inputs and outputs, schedules, and the HTTP ingress of web functions."""
