"""The admin's web page: projects, their corrections, versions and jobs, and the few settings."""
