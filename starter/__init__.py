"""How the starter bundle is trained; in the repository only, not in the wheel."""
