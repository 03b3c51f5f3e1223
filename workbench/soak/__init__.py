"""Long counts of one promise: no process, mount, socket, namespace, control group or directory is ever left.

`sandboxes` puts the phases together, `leftovers` says what is left, `orphans` makes sure that nothing can hide.
"""
