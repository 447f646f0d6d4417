"""One module per use case; sees only ports and the domain."""
