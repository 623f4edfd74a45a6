"""Accounts: users, sessions, tokens, API keys."""
