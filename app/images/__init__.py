"""Images: what can be known of them without decoding."""
