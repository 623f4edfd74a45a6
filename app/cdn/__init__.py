"""Content delivery networks: one port (:mod:`.base`), one file per vendor."""
