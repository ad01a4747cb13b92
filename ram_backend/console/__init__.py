"""The admin's web page: projects, corrections, versions, jobs, settings."""
