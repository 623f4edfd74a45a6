"""Object stores: one port (:mod:`.base`), one file per vendor."""
