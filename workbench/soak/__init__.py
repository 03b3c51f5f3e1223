"""Soaks: long tests that count whether promises are kept, such as that nothing is ever left behind on the machine.

What may be left is processes, mounts, sockets, namespaces, control groups and directories: `leftovers` looks for them,
and `orphans` makes sure that no process can hide. `sandbox_soak` runs the phases of the soak of sandboxes.
"""
