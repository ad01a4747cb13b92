"""Project rows: what admins and Label Studio settled for each project."""
