"""Where image bytes are kept."""
