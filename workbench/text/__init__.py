"""Makes text that jobs or models wrote safe to show, in terminals and as HTML."""
