"""Who may do what, as the registry's database keeps it: API keys, revoked tokens, the audit log."""
