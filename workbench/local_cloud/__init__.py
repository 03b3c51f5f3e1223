"""A cloud on this machine that speaks Modal's wire protocol.

It knows Modal, not us: nothing here imports `modal_app` or the rest of `workbench`.
"""
