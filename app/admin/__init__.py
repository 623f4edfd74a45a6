"""The room of operators: what they see and change of the running server, on the management listener only."""
