"""The server: its master, its workers, its management process, and what they listen on."""
