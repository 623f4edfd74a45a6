"""Renditions: what they cost in the engine beside libraries, and as a server beside others."""
