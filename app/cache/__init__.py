"""What is remembered of the database: tiers of the library's cache, and how the others hear of a change."""
