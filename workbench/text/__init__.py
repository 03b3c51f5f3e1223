"""Text and HTML that are safe to show, whoever wrote them."""
