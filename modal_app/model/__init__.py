"""How runs reach the model: what each is granted, its token, and what it has said."""
