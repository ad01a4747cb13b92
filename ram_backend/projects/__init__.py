"""Project rows: what admins and Label Studio settled for each project, read by server, worker and command alike."""
