"""The room of renditions: made once, kept, and served like originals."""
