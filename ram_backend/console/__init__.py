"""The admin's web page: projects, their corrections, versions, jobs and settings."""
